"""Equal values have equal bytes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towerkit.core.assets import asset
from towerkit.core.canonical import canonical_json, canonical_text, digest_of, fingerprint
from towerkit.core.errors import UsageError

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_canonical_json_reads_back_equal(value):
    """No text a model can produce is lost, lone surrogates included."""
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text(), st.integers(0, 9), min_size=2, max_size=6))
def test_key_order_does_not_matter(value):
    """A dictionary has one spelling."""
    assert canonical_json(dict(reversed(list(value.items())))) == canonical_json(value)


def test_objects_are_written_as_their_type_never_as_their_repr():
    """A repr may hold a secret, an address or a gigabyte."""

    class Evil:
        def __repr__(self):
            raise AssertionError("repr was called")

    assert "Evil" in canonical_text({"x": Evil()})
    assert canonical_text([float("nan"), float("inf")])


def test_recursive_values_end():
    """A list that holds itself has a finite spelling."""
    loop: list[object] = []
    loop.append(loop)
    assert "cycle" in canonical_text(loop)


def test_digests_differ_by_value_and_by_key():
    """Another value or another key is another digest."""
    assert digest_of({"a": 1}) != digest_of({"a": 2})
    assert fingerprint(b"k1", b"x") != fingerprint(b"k2", b"x")


def test_an_unknown_asset_lists_what_there_is():
    """The error names the files next to the missing one."""
    with pytest.raises(UsageError, match=r"release\.toml"):
        asset("data", "gates", "nope.toml")


def test_a_cycle_and_a_number_too_long_are_named():
    """What JSON cannot carry is said, at once, and never raised."""
    ring = []
    ring += [ring, {"me": ring}, 10**5000, {10**5000: object()}]
    assert canonical_json(ring) == (
        b'["<cycle>",{"me":"<cycle>"},"<integer of 16610 bits>",'
        b'{"<integer of 16610 bits>":"<object>"}]'
    )
    wide = [1]
    for _ in range(40):
        wide = [wide, wide, object()]
    assert b"<too much>" in canonical_json(wide)
