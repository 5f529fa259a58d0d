"""From a step and a request to the bytes of an answer and where they stop.

Rule: pure. The server only sends what stands in a `Rendered`, at the pace of the step's `Delay`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from towerkit.core.errors import UsageError
from towerkit.faults import provider_errors
from towerkit.faults.steps import (
    CleanEnd,
    Cut,
    HtmlPage,
    MalformedJson,
    Refuse,
    Reply,
    SseError,
    Stall,
    Status,
    Step,
)
from towerkit.faults.wire import WIRES, Asked, body_bytes, wrong

PIECES = 8  # of a body that is not streamed
Ending = Literal["whole", "cut", "reset", "stall", "no_answer"]

_HTML = (
    "<!DOCTYPE html>\n<html><head><title>{code}</title></head>"
    "<body><center><h1>{code}</h1></center><hr><center>simulated proxy</center></body></html>\n"
)


class Rendered(msgspec.Struct, frozen=True, kw_only=True):
    """An answer ready to be sent.

    `length` is the content-length announced; None: chunked transfer, closed by its last chunk only
    when the ending is "whole". `headers_sent` False: not even the status line goes out.
    """

    status: int
    headers: Mapping[str, str]
    chunks: tuple[bytes, ...]
    length: int | None
    ending: Ending = "whole"
    headers_sent: bool = True


_NO_ANSWER = Rendered(
    status=0, headers={}, chunks=(), length=0, ending="no_answer", headers_sent=False
)


def render(step: Step, asked: Asked) -> Rendered:
    """Return what `step` answers to `asked`; raise `UsageError` where the format cannot say it."""
    step = _unstreamed(step, asked)
    if isinstance(step.answer, Refuse):
        return _NO_ANSWER
    if isinstance(step.end, Stall) and step.end.at_chunk is None:
        return msgspec.structs.replace(_NO_ANSWER, ending="stall")
    status, headers, whole, streamed = _answer(step, asked)
    chunks, ending = _ended(step, asked, whole)
    # An early end breaks the promise of the header; a clean one never made it.
    promised = chunks if ending == "whole" else whole
    return Rendered(
        status=status,
        headers={**_common_headers(asked), **headers},
        chunks=tuple(chunks),
        length=None if streamed else sum(len(c) for c in promised),
        ending=ending,
    )


def _unstreamed(step: Step, asked: Asked) -> Step:
    """Return the step with an error told by status where there is no stream to tell it in."""
    if asked.stream or not isinstance(step.end, SseError):
        return step
    wire = WIRES[asked.format]
    row = provider_errors.find(wire.error_rows, word=step.end.error, status=None)
    body = None if step.end.body is None else wire.error_body(step.end.body, asked)
    return Step(answer=Status(code=row.status, error=step.end.error, body=body), delay=step.delay)


def _answer(step: Step, asked: Asked) -> tuple[int, dict[str, str], list[bytes], bool]:
    """Return status, headers, all chunks and whether it is a stream."""
    wire, answer = WIRES[asked.format], step.answer
    if isinstance(answer, HtmlPage):
        page = _HTML.format(code=answer.code).encode()
        return answer.code, {"content-type": "text/html; charset=utf-8"}, _pieces(page), False
    if isinstance(answer, Status):
        body = answer.body
        if body is None:
            row = provider_errors.find(wire.error_rows, word=answer.error, status=answer.code)
            body = wire.error_body(wire.error(row), asked)
        kind = "text/html" if isinstance(body, str) and body.lstrip().startswith("<") else ""
        headers = {"content-type": kind or "application/json", **answer.headers}
        return answer.code, headers, _pieces(body_bytes(body)), False
    reply = answer if isinstance(answer, Reply) else Reply()
    usage = wrong(wire.usage(reply.usage), step.wrong_usage)
    broken = isinstance(answer, MalformedJson)
    if asked.stream:
        events = wire.events(reply, asked, usage)
        if broken:
            events = [events[0], *(_broken_event(e) for e in events[1:])]
        return 200, {"content-type": "text/event-stream; charset=utf-8"}, events, True
    data = body_bytes(wire.reply(reply, asked, usage))
    if broken:
        data = data[: len(data) * 2 // 3]
    return 200, {"content-type": "application/json"}, _pieces(data), False


def _broken_event(event: bytes) -> bytes:
    line = event.rstrip(b"\n")
    return line[: len(line) - max(2, len(line) // 4)] + b"\n\n"


def _pieces(data: bytes) -> list[bytes]:
    size = max(1, -(-len(data) // PIECES))
    return [data[at : at + size] for at in range(0, len(data), size)]


def _ended(step: Step, asked: Asked, chunks: list[bytes]) -> tuple[list[bytes], Ending]:
    end = step.end
    if end is None:
        return chunks, "whole"
    at = end.at_chunk or 0
    if abs(at) > len(chunks):
        raise UsageError(
            f"fault script: the answer in the {asked.format} format has {len(chunks)} chunks, "
            f"got at_chunk={at}: give a longer text or a smaller number"
        )
    at = at if at >= 0 else len(chunks) + at
    kept = chunks[:at]
    if isinstance(end, SseError):
        wire = WIRES[asked.format]
        error = end.body
        if error is None:
            row = provider_errors.find(wire.error_rows, word=end.error, status=None)
            error = wire.error(row)
        return [*kept, wire.error_event(error, at)], "whole"
    if isinstance(end, Cut | CleanEnd) and end.inside and at < len(chunks):
        kept = [*kept, chunks[at][: len(chunks[at]) // 2]]
    if isinstance(end, Cut):
        return kept, "reset" if end.reset else "cut"
    return kept, "stall" if isinstance(end, Stall) else "whole"


def _common_headers(asked: Asked) -> dict[str, str]:
    name = WIRES[asked.format].request_id_header
    return {name: f"req_simulated_{asked.number}"} if name else {}
