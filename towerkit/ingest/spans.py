"""From spans to runs: what `otlp` and `openinference` share.

Rule: a trace is a run, and it is admitted whole or not at all: what cannot be read, stands twice
with different content, or goes round in a circle refuses its trace, and names record, span and
field. Where a broken record may hide a span of any trace, the file is refused. Ids and parents stay
what they are; a run without a single root gets one, and says so.
"""

from __future__ import annotations

import base64
import binascii
import heapq
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from towerkit.core.canonical import canonical_json
from towerkit.ingest.source import BadRecord, Records, split
from towerkit.ingest.trace import Job, Survey, Trace
from towerkit.telemetry import names
from towerkit.telemetry.foreign import Emitted, Failed, columns_of, failure_of, said, what_is

EARLIEST_NS = 10**17  # March 1973: a smaller number is not in nanoseconds
LATEST_NS = 2**62
UNVERSIONED = "unversioned"
_BASE64_IDS = {24: 32, 12: 16}  # length in base64 -> in hexadecimal, as protobuf's own JSON has it
_DURATION = re.compile(
    r"P(?:(?P<d>\d+)D)?T?(?:(?P<h>\d+)H)?(?:(?P<m>\d+)M)?(?:(?P<s>\d+)(?:\.(?P<f>\d+))?S)?"
)
_INSTANT = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:?\d\d)?")
_PLAIN_NAME = re.compile(r"[^A-Za-z0-9_.-]+")


_TIMED = "recorded by the emitter of each span"
_UNTIMED = "spans without an end have a duration of 0, which means nothing"


class Piece(NamedTuple):
    """One span of a file as it stands there: its trace, its record, and what is said around it."""

    trace_id: str
    record: int
    span: dict[str, Any]
    resource: dict[str, Any]
    scope: dict[str, Any]


# -- values ----------------------------------------------------------------------------------------


def hex_id(value: Any, length: int, field: str) -> str:
    """Return an id in hexadecimal: from hexadecimal with or without 0x, an integer, or base64."""
    text = f"{value:0{length}x}" if type(value) is int and value >= 0 else value
    if isinstance(text, str):
        text = text.removeprefix("0x").removeprefix("0X")
        if _BASE64_IDS.get(len(text)) == length:
            try:
                text = base64.b64decode(text, validate=True).hex()
            except (binascii.Error, ValueError):
                text = ""
        if re.fullmatch(rf"[0-9A-Fa-f]{{{length}}}", text) and text.strip("0"):
            return text.lower()
    raise BadRecord(
        field, f"expected {length} hexadecimal characters, not all 0, got {_shown(value)}"
    )


def instant_ns(value: Any, field: str) -> int:
    """Return a time in nanoseconds since 1970: from such a number, or from ISO 8601 text."""
    found: int | None = None
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if type(value) is int:
        found = value
    elif isinstance(value, str) and (match := _INSTANT.fullmatch(value.strip())):
        zone = "+00:00" if match[4] in {None, "Z"} else match[4]  # no zone is read as UTC
        try:
            at = datetime.fromisoformat(f"{match[1]}T{match[2]}{zone}").astimezone(UTC)
        except ValueError:
            at = datetime.fromtimestamp(0, UTC)
        found = int(at.timestamp()) * 10**9 + int((match[3] or "0")[:9].ljust(9, "0"))
    if found is None or not EARLIEST_NS <= found <= LATEST_NS:
        raise BadRecord(
            field, f"expected nanoseconds since 1970 or an ISO 8601 time, got {_shown(value)}"
        )
    return found


def end_ns(value: Any, field: str) -> int | None:
    """Return when a span ended; None where it had not."""
    return None if value in (None, "", 0, "0") else instant_ns(value, field)


def duration_ns(value: Any, field: str) -> int:
    """Return an ISO 8601 duration in nanoseconds."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None or not value.strip("PT"):
        raise BadRecord(field, f"expected an ISO 8601 duration, got {_shown(value)}")
    whole = {k: int(v or 0) for k, v in match.groupdict().items() if k != "f"}
    seconds = ((whole["d"] * 24 + whole["h"]) * 60 + whole["m"]) * 60 + whole["s"]
    return seconds * 10**9 + int((match["f"] or "0")[:9].ljust(9, "0"))


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)[:60]


def mapping(value: Any, field: str) -> dict[str, Any]:
    """Return an object; nothing is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRecord(field, f"expected an object, got {_shown(value)}")
    return value


def listed(value: Any, field: str) -> list[Any]:
    """Return a list; nothing is an empty one."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRecord(field, f"expected a list, got {_shown(value)}")
    return value


# -- the file --------------------------------------------------------------------------------------


def objects(data: bytes) -> Iterator[tuple[int, dict[str, Any] | BadRecord]]:
    """Yield the number and the content of each record of a file, or what is wrong with it."""
    records: Records = split(data)
    for index, raw in enumerate(records.items):
        try:
            yield index, mapping(json.loads(raw), "the record")
        except BadRecord as bad:
            yield index, BadRecord(bad.field, bad.problem, index=index)
        except json.JSONDecodeError as error:
            problem = f"malformed at character {error.pos}: {error.msg}"
            yield index, BadRecord("JSON", problem, index=index)
        except UnicodeDecodeError as error:
            yield index, BadRecord("JSON", f"not UTF-8 at byte {error.start}", index=index)
        except RecursionError:
            yield index, BadRecord("JSON", "nested too deeply to be read", index=index)
    if records.stopped is not None:
        yield len(records.items), records.stopped


def survey_of(
    groups: Iterable[tuple[Mapping[str, Any], Sequence[Piece]]], broken: list[BadRecord]
) -> Survey:
    """Return the jobs of a file: one a trace of a group, with what stands around the group."""
    jobs: list[Job] = []
    versions: set[str] = set()
    for around, pieces in groups:
        traces: dict[str, list[Piece]] = {}
        for piece in pieces:
            traces.setdefault(piece.trace_id, []).append(piece)
            version = piece.resource.get("service.version")
            versions |= {str(version)} if version else set()
        for own in traces.values():
            raw = json.dumps({"around": around, "pieces": [p[1:] for p in own]}).encode()
            jobs.append(Job(index=own[0].record, raw=raw))
    release = min(versions) if len(versions) == 1 else UNVERSIONED
    return Survey(jobs=jobs, broken=broken, seen=len(jobs) + len(broken), release=release)


# -- a trace ---------------------------------------------------------------------------------------


def trace_of(job: Job, read: Callable[[Piece], Iterable[Emitted]]) -> Trace:
    """Return the run of one trace; `read` returns the spans a piece holds."""
    content = json.loads(job.raw)
    spans: dict[str, Emitted] = {}
    again = 0
    for record, *rest in content["pieces"]:
        try:
            for span in read(Piece("", record, *rest)):
                again += _add(spans, span)
        except BadRecord as bad:
            raise BadRecord(bad.field, bad.problem, index=record) from None
    return _trace(in_order(spans), content["around"], again)


def _add(spans: dict[str, Emitted], span: Emitted) -> int:
    """Add a span; one that was delivered twice is one, and counted."""
    known = spans.setdefault(span.span_id, span)
    if known is span:
        return 0
    if canonical_json(known) != canonical_json(span):
        raise BadRecord(
            f"span {span.span_id}: span id",
            "stands twice in its trace with different content: expected each span once",
        )
    return 1


def in_order(spans: Mapping[str, Emitted]) -> list[Emitted]:
    """Return spans as they started, each after its parent; raise `BadRecord` for a circle."""
    below: dict[str | None, list[Emitted]] = {}
    for span in spans.values():
        parent = span.parent_span_id if span.parent_span_id in spans else None
        below.setdefault(parent, []).append(span)
    waiting = [(s.start_unix_ns, s.span_id) for s in below.get(None, ())]
    heapq.heapify(waiting)
    out: list[Emitted] = []
    while waiting:
        span = spans[heapq.heappop(waiting)[1]]
        out.append(span)
        for child in below.get(span.span_id, ()):
            heapq.heappush(waiting, (child.start_unix_ns, child.span_id))
    if len(out) < len(spans):
        ring = sorted(spans.keys() - {s.span_id for s in out})
        raise BadRecord(
            f"span {ring[0]}: parent",
            f"{len(ring)} spans are their own ancestors ({', '.join(ring[:4])}): expected a tree",
        )
    return out


def sole_root(spans: Sequence[Emitted]) -> Emitted | None:
    """Return the span that is the run; None where several have no parent, or one is a call."""
    known = {s.span_id for s in spans}
    roots = [s for s in spans if s.parent_span_id not in known]
    if len(roots) != 1 or what_is(roots[0].attributes) in {"model", "tool"}:
        return None
    return None if roots[0].attributes.get(names.KIND) in {"call", "attempt"} else roots[0]


def _trace(spans: list[Emitted], around: Mapping[str, Any], again: int) -> Trace:
    root = sole_root(spans)
    known = {s.span_id for s in spans}
    ends = [root] if root else [s for s in spans if s.parent_span_id not in known]
    failed = next((f for f in (failure_of(s, what_is(s.attributes)) for s in ends) if f), None)
    whole = all(s.end_unix_ns is not None for s in spans)
    resource = spans[0].resource
    more = {f"record.{k}": v for k, v in around.items()}
    more |= {"otel.duplicates_dropped": again} if again else {}
    columns = [columns_of(s.attributes) for s in spans]
    return Trace(
        record_id=spans[0].trace_id,
        scenario=_scenario(root, resource),
        case_id=str(around.get("case_id") or spans[0].trace_id),
        trial=0,
        task=None if root is None else said(root, what_is(root.attributes), answered=False),
        task_digest=None,
        models=tuple(sorted({m for c in columns if (m := c.get("gen_ai_request_model"))})),
        started_unix_ns=min(s.start_unix_ns for s in spans),
        duration_ns=max(s.last_unix_ns for s in spans) - min(s.start_unix_ns for s in spans),
        clock="recorded" if whole else "none",
        timing=_TIMED if whole else _UNTIMED,
        status=_status(root, failed),
        error_class=None if failed is None else failed.error_class,
        error_message=None if failed is None else failed.message,
        attributes=more,
        events=(),
        spans=tuple(spans),
        scores=(),
    )


def _status(root: Emitted | None, failed: Failed | None) -> str:
    ours = None if root is None else root.attributes.get(names.STATUS)
    if ours in {"cancelled", "aborted"}:
        return str(ours)
    return "completed" if failed is None else "failed"


def _scenario(root: Emitted | None, resource: Mapping[str, Any]) -> str:
    """Return what the runs are called: the service, else the agent, else the root's own name."""
    service = str(resource.get("service.name") or "")
    if service in {"", "agent"} or service.startswith("unknown_service"):
        service = ""
    agent = None if root is None else root.attributes.get(names.AGENT_NAME) or root.name
    ours = root is not None and names.KIND in root.attributes
    name = str(agent) if ours else service or str(agent or "trace")
    return _PLAIN_NAME.sub("_", name).strip("_")[:80] or "trace"
