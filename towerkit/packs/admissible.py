"""Whether a pack's tables agree with each other: only then is its run evidence.

Rule: one table of rules, each with the sentence that says what must hold. What a source cannot have
is not asked of it (`applies`); what it has must hold. A run that breaks one is kept and shown, and
counted by no gate. Nothing of this is stored: it is derived whenever a pack is read.

The fields each kind of row must have are rules of the tables themselves (`packs.tables`, judged by
`packs.validate`, by Pandera where something does not hold).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import msgspec

from towerkit.core.errors import PackError
from towerkit.packs.reader import Pack
from towerkit.reliability.taxonomy import TAXONOMY

Row = dict[str, Any]

_SPARE_NS = 1_000_000_000

# What may stand above a span: the tree is run > step > call > attempt, steps may be nested.
# Below the attempt of a tool stands what its function does.
_PARENTS = {
    "step": {"run", "step", "attempt"}, "call": {"run", "step", "attempt"}, "attempt": {"call"},
}  # fmt: skip
_TAPED = {"chat": "model", "execute_tool": "tool"}
_TOKENS = tuple(
    f"{name}_tokens" for name in ("input", "output", "cache_read", "cache_write", "reasoning")
)


class Facts:
    """The rows of a pack, as rules look at them."""

    def __init__(self, pack: Pack) -> None:
        """Read the pack. Raises `PackError` when it does not verify."""
        self.pack, self.manifest = pack, pack.manifest
        self.spans: list[Row] = pack.frame("spans").drop("salt").to_dicts()
        self.costs: list[Row] = pack.frame("costs").drop("salt").to_dicts()
        self.inputs: list[Row] = pack.frame("inputs").drop("salt").to_dicts()
        self.by_id: dict[str, Row] = {s["span_id"]: s for s in self.spans}
        self.attempts = [s for s in self.spans if s["kind"] == "attempt"]
        self.children: dict[str, list[Row]] = defaultdict(list)
        for span in self.spans:
            self.children[span["parent_span_id"] or ""].append(span)

    @cached_property
    def live(self) -> bool:
        """Whether a tower made the pack, not an ingest."""
        return bool(self.manifest["source"].get("kind") == "live")

    @cached_property
    def timed(self) -> bool:
        """Whether all times are of one monotonic clock: a source's own may be of several."""
        return self.manifest["clock"] in {"system", "virtual"}

    @cached_property
    def kept(self) -> bool:
        """Whether content was kept."""
        return bool(self.manifest["redactor"].get("capture") == "redacted")


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What must hold of a pack. `broken` yields the row that breaks it, as part of a sentence."""

    name: str
    says: str
    broken: Callable[[Facts], Iterator[str]]
    applies: Callable[[Facts], bool] = lambda _: True


def _shown(span: Row) -> str:
    return f"{span['kind']} {span['span_id']}"


def _ended(f: Facts) -> Iterator[str]:
    if f.manifest["status"] == "aborted":
        yield "it was aborted: its evidence is not complete"


def _counted(f: Facts) -> Iterator[str]:
    counts = f.manifest["spans"]
    aborted = counts.get("aborted", 0)
    if counts["dropped"] or counts["started"] - counts["dropped"] != len(f.spans):
        yield f"{counts['started'] - len(f.spans)} of {counts['started']} spans are missing"
    elif counts["started"] != counts["ended"] + aborted + counts["dropped"]:
        yield f"{counts['started']} spans started, {counts['ended']} ended and {aborted} aborted"
    elif aborted != sum(s["status"] == "aborted" for s in f.spans):
        yield f"the manifest says that {aborted} spans were aborted, the rows do not"


def _one_run(f: Facts) -> Iterator[str]:
    rows = [*f.spans, *f.costs, *f.inputs]
    foreign = {r["run_id"] for r in rows} - {f.pack.run_id}
    if foreign:
        yield f"rows of another run, {min(foreign)}"


def _numbered(f: Facts) -> Iterator[str]:
    for name, rows in (("spans", f.spans), ("costs", f.costs), ("inputs", f.inputs)):
        if sorted(r["seq"] for r in rows) != list(range(len(rows))):
            yield f"the numbers of {name} are not 0 to {len(rows) - 1}"
    if len(f.by_id) != len(f.spans):
        yield "two spans have one id"


def _tree(f: Facts) -> Iterator[str]:
    roots = [s for s in f.spans if s["kind"] == "run"]
    if len(roots) != 1 or roots[0]["parent_span_id"] is not None:
        yield f"expected one run span and nothing above it, got {len(roots)}"
    for span in f.spans:
        if span["kind"] != "run":
            above = f.by_id.get(span["parent_span_id"])
            if above is None or above["kind"] not in _PARENTS[span["kind"]]:
                what = "nothing" if above is None else f"a {above['kind']}"
                yield f"{_shown(span)} has {what} above it"
    yield from _unrooted(f)


def _unrooted(f: Facts) -> Iterator[str]:
    """Yield spans that no way leads to from the run: they are each other's parents."""
    seen: set[str] = set()
    due = list(f.children[""])
    while due:
        span = due.pop()
        if span["span_id"] not in seen:
            seen.add(span["span_id"])
            due += f.children.get(span["span_id"], [])
    lost = [s for s in f.spans if s["span_id"] not in seen and s["parent_span_id"] in f.by_id]
    if lost:
        yield f"{_shown(lost[0])} hangs on no run"


def _referred(f: Facts) -> Iterator[str]:
    for name, rows in (("costs", f.costs), ("inputs", f.inputs)):
        for row in rows:
            if row["span_id"] is not None and row["span_id"] not in f.by_id:
                yield f"row {row['seq']} of {name} names span {row['span_id']}, which is not here"


def _taped(f: Facts) -> Iterator[str]:
    tape: dict[str, list[Row]] = defaultdict(list)
    for row in f.inputs:
        if row["kind"] in {"model", "tool"}:
            tape[row["span_id"]].append(row)
    for span in f.attempts:
        if span["status"] == "aborted" or (not f.live and _evaluations(span)):
            continue
        found, kind = tape.get(span["span_id"], []), _TAPED.get(span["gen_ai_operation_name"])
        if len(found) != 1 or found[0]["kind"] != kind:
            yield f"{_shown(span)} has {len(found)} rows of the tape"
        elif any(found[0][c] != span[c] for c in ("request_digest", "response_digest")):
            yield f"{_shown(span)} asked or was answered otherwise than the tape says"


def _evaluations(span: Row) -> bool:
    """Say whether a span is the simulated user's, whose traffic is the world's, not the tape's."""
    try:
        return bool(json.loads(span["attributes"]).get("role") == "user_simulator")
    except (ValueError, AttributeError):
        return False


def _accounted(f: Facts) -> Iterator[str]:
    for span in f.spans:
        if span["kind"] != "call":
            continue
        tries = [s for s in f.children[span["span_id"]] if s["kind"] == "attempt"]
        if span["status"] == "ok" and not any(s["status"] == "ok" for s in tries):
            yield f"{_shown(span)} succeeded, and no attempt of it did"
        numbers = [s["attempt"] for s in sorted(tries, key=lambda s: int(s["seq"]))]
        if numbers != list(range(1, len(numbers) + 1)):
            yield f"{_shown(span)} has the attempts {numbers}"


def _tokens(f: Facts) -> Iterator[str]:
    charged: dict[str, list[Row]] = defaultdict(list)
    for row in f.costs:
        charged[row["span_id"]].append(row)
    for span in f.attempts:
        rows = charged.get(span["span_id"], [])
        known = TAXONOMY.get(span["error_class"] or "")
        if any(r["estimated"] for r in rows) or (not rows and known and known.charge == "none"):
            continue  # a guess stands for what was not said; what fails so is not charged
        for token in _TOKENS:
            used = span[f"gen_ai_usage_{token}"]
            counts = [r[token] for r in rows if r[token] is not None]
            if (used is None and not counts) or (counts and used == sum(counts)):
                continue
            said = sum(counts) if counts else "none"
            yield f"{_shown(span)} used {used} {token}, its charges say {said}"
    for row in f.costs:
        charged_to = f.by_id.get(row["span_id"])
        if charged_to is not None and charged_to["kind"] != "attempt":
            yield f"row {row['seq']} of costs charges a {charged_to['kind']}, not an attempt"


def _inside(f: Facts) -> Iterator[str]:
    for span in f.spans:
        above = f.by_id.get(span["parent_span_id"])
        if above is None:
            continue
        begun, ended = span["start_unix_ns"], span["start_unix_ns"] + span["duration_ns"]
        early = above["start_unix_ns"] - begun
        late = ended - above["start_unix_ns"] - above["duration_ns"]
        if early > 0:
            yield f"{_shown(span)} begins {early} ns before what it is part of"
        elif late > 0 and span["status"] != "aborted":
            # What outlives its run, in a thread, ends as aborted: later is what that means.
            yield f"{_shown(span)} ends {late} ns after what it is part of"


def _covered(f: Facts) -> Iterator[str]:
    begun = f.manifest["started_unix_ns"]
    ended = begun + f.manifest["duration_ns"]
    # Between the end of the span and that of the run lies a reading of the clock, and whatever the
    # machine did meanwhile. Before the span lies what the agent did with a run it had not entered.
    spare = max(_SPARE_NS, f.manifest["duration_ns"] // 100)
    for span in f.spans:
        if span["kind"] == "run":
            first, last = span["start_unix_ns"], span["start_unix_ns"] + span["duration_ns"]
            if not (begun <= first and last <= ended):
                yield "the run span is not inside the time the manifest gives the run"
            elif ended - last > spare:
                yield f"the run span does not cover the last {ended - last} ns of the run"


def _ends_agree(f: Facts) -> Iterator[str]:
    for span in f.spans:
        good = span["status"] == "ok"
        if good != (span["error_class"] is None) and span["status"] in {"ok", "error"}:
            yield f"{_shown(span)} is {span['status']} with error class {span['error_class']}"
        elif span["kind"] == "run" and good != (f.manifest["status"] == "completed"):
            yield f"the run span is {span['status']} and the run {f.manifest['status']}"


def _content(f: Facts) -> Iterator[str]:
    bodies = f.pack.bodies
    rows = [("spans", r) for r in f.spans] + [("inputs", r) for r in f.inputs]
    for table, row in rows:
        for column in ("request_digest", "response_digest"):
            if row[column] is not None and row[column] not in bodies:
                yield f"row {row['seq']} of {table} names content that is not here ({column})"
    for digest in {s["request_digest"] for s in f.spans} & set(bodies):
        for message in _messages(bodies[digest]):
            if message not in bodies:
                yield f"request {digest} names a message that is not here"


def _messages(body: bytes) -> Sequence[str]:
    """Return the digests of the messages of a stored request."""
    try:
        request = msgspec.json.decode(body)
    except msgspec.MsgspecError:
        return ()
    found = request.get("messages") if isinstance(request, dict) else None
    return [m for m in found if isinstance(m, str)] if isinstance(found, list) else ()


RULES: tuple[Rule, ...] = (
    Rule(name="ended", says="the run came to an end of its own", broken=_ended),
    Rule(name="counted", says="started = ended + aborted + dropped, none dropped, each a row",
         broken=_counted),
    Rule(name="one_run", says="every row is of the run the manifest names", broken=_one_run),
    Rule(name="numbered", says="rows are numbered from 0 without a gap, span ids are unique",
         broken=_numbered),
    Rule(name="tree", says="one run span; steps and calls below it, attempts below calls, what a "
         "tool does below its attempt", broken=_tree),
    Rule(name="referred", says="charges and tape rows name spans that exist", broken=_referred),
    Rule(name="taped", says="each model and tool attempt has its one row of the tape, with the "
         "same digests (an ingested run's simulated user has none)", broken=_taped),
    Rule(name="accounted", says="a call that succeeded has an attempt that did; attempts count "
         "from 1", broken=_accounted),
    Rule(name="tokens", says="the tokens of an attempt are those of its charges, class by class "
         "(unless they are an estimate, or the taxonomy says that it is not charged)",
         broken=_tokens),
    Rule(name="inside", says="on one clock, a span lies inside its parent, to the nanosecond",
         broken=_inside, applies=lambda f: f.timed),
    Rule(name="covered", says="the run span is inside the run, and ends within 1 % or a second",
         broken=_covered, applies=lambda f: f.manifest["status"] != "aborted"),
    Rule(name="ends", says="a span has an error class when it failed, and the run span ends as the "
         "run did", broken=_ends_agree),
    Rule(name="content", says="where content is kept, every digest leads to some",
         broken=_content, applies=lambda f: f.kept),
)  # fmt: skip


def reasons(pack: Pack) -> tuple[str, ...]:
    """Return why a run is not evidence, one sentence a broken rule; none if it is."""
    try:
        facts = Facts(pack)
        if facts.kept:
            pack.frame("content")
    except PackError as error:
        return (str(error),)
    found = []
    for rule in RULES:
        if rule.applies(facts):
            broken = list(rule.broken(facts))
            if broken:
                more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
                found.append(f"{rule.name}: {broken[0]}{more}")
    return tuple(found)
