"""A budget as it is written down: read from a file, checked where it is made, shown in a pack."""

from __future__ import annotations

import pytest

from towerkit.core.errors import UsageError
from towerkit.cost.budget import Limits
from towerkit.cost.plan import PERIOD_NS, Budget, Window, load_budget, read_budget

WINDOW = Window(scope="tenant", per="day", limits=Limits(cost_usd=20.0))


def shorter(messages):
    """Return fewer messages."""
    return messages[1:]


def test_a_file_is_read_and_its_sentence_names_it(tmp_path):
    """TOML, with the function that a file cannot hold; what is none is told with its place."""
    path = tmp_path / "budget.toml"
    path.write_text('short = ["compact", "cheaper"]\nladder = true\n[run]\ncalls = 4\n'
                    '[tools.look]\ntool_calls = 2\n')  # fmt: skip
    budget = load_budget(path, compact=shorter)
    assert budget == Budget(run=Limits(calls=4), tools={"look": Limits(tool_calls=2)},
                            short=("compact", "cheaper"), ladder=True, compact=shorter)  # fmt: skip
    path.write_text("run = 4")
    with pytest.raises(UsageError, match=rf"^{path}: Expected `object`, got `int`"):
        load_budget(path)
    path.write_text("compact = 1")
    with pytest.raises(UsageError, match=f"^{path}: compact is a function: give it beside"):
        load_budget(path)
    for text in (b"run = ", b"\xff"):
        path.write_bytes(text)
        with pytest.raises(UsageError, match=f"^expected a budget in TOML at {path}: "):
            load_budget(path)
    with pytest.raises(UsageError, match=f"^expected a budget in TOML at {tmp_path}: "):
        load_budget(tmp_path)


def test_a_table_that_is_none_says_so():
    """Without a file the sentence speaks of the budget."""
    with pytest.raises(UsageError, match=r"^the budget: Object contains unknown field `cost`"):
        read_budget({"cost": 1})
    assert read_budget({}) == Budget()
    assert read_budget({"short": ["compact"]}, compact=shorter).compact is shorter


@pytest.mark.parametrize(
    ("short", "ways"),
    [("refuse", ()), ("clamp", ("clamp",)), (("cheaper", "refuse", "clamp"), ("cheaper", "clamp")),
     ((), ())],
)  # fmt: skip
def test_the_ways_out_are_tried_in_their_order(short, ways):
    """To refuse is the end of each of them, and none itself."""
    assert Budget(short=short).ways == ways


@pytest.mark.parametrize("given", [{"short": "compact"}, {"short": ("clamp",), "compact": shorter},
                                   {"short": "compact", "compact": 1}])  # fmt: skip
def test_what_is_to_compact_needs_its_function_and_the_other_way_round(given):
    """One without the other contradicts itself."""
    said = 'expected a function compact= beside short="compact", and none without it'
    with pytest.raises(UsageError) as raised:
        Budget(**given)
    assert str(raised.value) == said


@pytest.mark.parametrize("limits", [{"wall_s": 1}, {"working_s": 1}])
def test_a_window_has_a_length_of_its_own(limits):
    """No limit on time above the run."""
    with pytest.raises(UsageError) as raised:
        Window(scope="tenant", per="hour", limits=Limits(**limits))
    assert str(raised.value) == (
        "expected limits of cost_usd, input_tokens, output_tokens, calls, tool_calls above the "
        "run, got one on time"
    )


@pytest.mark.parametrize(
    ("given", "plain"),
    [({}, True), ({"run": Limits(cost_usd=1)}, True), ({"short": "refuse"}, True),
     ({"run": Limits(cost_usd=1, calls=1)}, False), ({"run": Limits(wall_s=1)}, False),
     ({"tools": {"a": Limits()}}, False), ({"above": (WINDOW,)}, False),
     ({"short": "clamp"}, False), ({"ladder": True}, False)],
)  # fmt: skip
def test_only_a_limit_on_cost_is_the_ledgers_alone(given, plain):
    """Whatever else there is needs accounts."""
    assert Budget(**given).plain is plain


def test_it_is_described_as_it_was_set():
    """What is not set is left out."""
    assert Budget().described() == {}
    whole = Budget(run=Limits(calls=4, wall_s=2.5), tools={"look": Limits(tool_calls=1)},
                   above=(WINDOW,), short=("clamp", "refuse"), ladder=True)  # fmt: skip
    assert whole.described() == {
        "run": {"calls": 4, "wall_s": 2.5}, "tools": {"look": {"tool_calls": 1}},
        "above": [{"scope": "tenant", "per": "day", "limits": {"cost_usd": 20.0}}],
        "short": ["clamp"], "ladder": True,
    }  # fmt: skip
    assert PERIOD_NS == {"hour": 3_600 * 10**9, "day": 86_400 * 10**9}
