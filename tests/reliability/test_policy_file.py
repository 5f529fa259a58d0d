"""A policy from a file: strict, and what a tower takes."""

from __future__ import annotations

import pytest

from towerkit import Tower, load_policy
from towerkit.core.errors import UsageError
from towerkit.reliability.policy import Policy


def test_a_file_gives_its_limits_and_the_defaults(tmp_path) -> None:
    """And a tower runs under it."""
    path = tmp_path / "policy.toml"
    path.write_text("max_attempts = 2\ndeadline_s = 30\n")
    policy = load_policy(path)
    assert policy == Policy(max_attempts=2, deadline_s=30.0)
    assert Tower(store=tmp_path, policy=policy).policy is policy


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_attempt = 2", "got max_attempt; known: attempt_timeout_s, deadline_s, max_attempts"),
        ("max_attempts = 'two'", "Expected `int`, got `str`"),
        ("max_attempts = 0", "max_attempts of at least 1, got 0"),
        ("deadline_s = -1.0", "deadline_s of at least 0, got -1"),
        ("deadline_s = nan", "deadline_s of at least 0, got nan"),
        ("max_attempts =", "expected TOML in"),
    ],
)
def test_what_is_wrong_is_one_sentence(text, said, tmp_path) -> None:
    """It names the file, the key, and the keys that are known."""
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_policy(path)
    assert said in str(caught.value)
    assert "policy.toml" in str(caught.value)


def test_a_file_that_is_not_there(tmp_path) -> None:
    """Is named."""
    with pytest.raises(UsageError, match=r"cannot read .*none\.toml"):
        load_policy(tmp_path / "none.toml")
