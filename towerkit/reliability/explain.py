"""What an operator asks at three in the morning about an error.

Rule: every answer is printed from the taxonomy's table; nothing is written twice. Pure: lines and
records come in, objects and text go out.
"""

from __future__ import annotations

import json
from typing import Any

from towerkit.reliability.classify import classify_log
from towerkit.reliability.taxonomy import TAXONOMY, ErrorClass

_EXPECTED = (
    'expected {"provider": text or null, "http_status": integer or null, "raw": text or JSON}'
)


def explain(
    raw: Any, *, http_status: int | None = None, provider: str | None = None
) -> dict[str, Any]:
    """Explain one failure: its class, what the tower does about it and who has to mend it."""
    failure = classify_log(raw, http_status=http_status, provider=provider)
    row = TAXONOMY[failure.error_class]
    answer = describe(row)
    answer["policy"]["wait"]["asked_s"] = failure.retry_after_s
    return answer


def explain_line(line: bytes) -> tuple[dict[str, Any], bool]:
    """Answer one line of JSON; False with `{"error": …}` when it is not what is expected."""
    try:
        record = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        return {"error": f"not JSON: {str(error)[:200]}; {_EXPECTED}"}, False
    problem = _problem(record)
    if problem is not None:
        return {"error": f"{problem}; {_EXPECTED}"}, False
    answer = explain(
        record["raw"], http_status=record.get("http_status"), provider=record.get("provider")
    )
    return answer, True


def _problem(record: Any) -> str | None:
    if not isinstance(record, dict):
        return f"got {type(record).__name__}"
    if not isinstance(record.get("raw"), str | dict | list):
        return f"raw: got {'nothing' if 'raw' not in record else type(record['raw']).__name__}"
    status, provider = record.get("http_status"), record.get("provider")
    if status is not None and (isinstance(status, bool) or not isinstance(status, int)):
        return f"http_status: got {type(status).__name__}"
    if provider is not None and not isinstance(provider, str):
        return f"provider: got {type(provider).__name__}"
    return None


def describe(row: ErrorClass) -> dict[str, Any]:
    """Return a row as the object that `explain` answers with."""
    return {
        "class": row.name,
        "family": row.family,
        "retryable": row.retryable,
        "policy": {
            "attempts": row.attempts,
            "only_if_idempotent": row.idempotent_only,
            "wait": {"from": row.wait, "base_s": row.base_s, "asked_s": None},
            "fallback": row.scope,
            "breaker": row.breaker,
            "charge": row.charge,
        },
        "fault": row.fault,
        "visible_to": row.visible_to,
        "action": row.action,
        "summary": row.summary,
    }


def row_lines(row: ErrorClass) -> list[str]:
    """Return a row as text for a terminal."""
    tries = f"{row.attempts} in all" + (", if idempotent" if row.idempotent_only else "")
    wait = {"none": "none", "backoff": "backoff", "asked": "as asked, at least backoff"}[row.wait]
    return [
        f"{row.name} ({row.family}): {row.summary}",
        f"  tries       {tries}",
        f"  wait        {wait}" + (f" from {row.base_s:g} s" if row.wait != "none" else ""),
        f"  fallback    {row.scope.replace('_', ' ')}",
        f"  breaker     {row.breaker}",
        f"  charge      {row.charge}",
        f"  fault       {row.fault}; visible to the {row.visible_to}",
        f"  to do       {row.action}",
    ]


_PAGE_HEAD = """# Errors

Printed from `towerkit/reliability/taxonomy.py`; a test holds the two equal. To rewrite it:
`towerkit errors ls --markdown > docs/errors.md`.

Ask about an error from a log, one JSON object a line:

    echo '{"provider": "openai", "http_status": 429, "raw": "insufficient_quota"}' \\
      | towerkit errors explain

How a failure gets its class, first answer counts: the tower's own verdict; a class name that says
all by itself; the provider's code and the HTTP status; a class name that names what happened on the
wire; the words of the message; the class name of a family. What fits nothing is `unknown`.

- **Tries** are physical attempts on one tier, the first included. *if idempotent*: only a tool that
  is declared harmless to run twice is run again.
- **Wait**: *backoff* is full jitter over base · 2ⁿ; *asked* is at least what the provider asked for
  (`retry-after-ms`, `retry-after`, `RetryInfo.retryDelay`, `x-ratelimit-reset-*`, the message).
- **Cost**: what a retry takes from the retry bucket. **Veto**: `x-should-retry: false` forbids it.
- **Fallback**: who may answer instead. **Breaker**: what the failure is to the breaker of its key.
- **Charge**: what a failed attempt is booked with: nothing, its input, what was used or estimated.
"""


def errors_page() -> str:
    """Return `docs/errors.md`."""
    parts = [_PAGE_HEAD]
    for family in dict.fromkeys(row.family for row in TAXONOMY.values()):
        rows = [row for row in TAXONOMY.values() if row.family == family]
        parts += ["", f"## {family.capitalize()}", "", *_decisions(rows), "", *_meanings(rows)]
    return "\n".join(parts) + "\n"


def _decisions(rows: list[ErrorClass]) -> list[str]:
    lines = [
        "| class | tries | wait | cost | veto | fallback | breaker | charge |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        again = row.attempts > 1
        tries = f"{row.attempts}{' if idempotent' if row.idempotent_only else ''}"
        wait = f"{row.wait}, {row.base_s:g} s" if row.wait != "none" else "–"
        cost = str(row.retry_cost) if again else "–"
        veto = "–" if not again else "obeyed" if row.veto_obeyed else "no"
        scope = "–" if row.scope == "none" else row.scope.replace("_", " ")
        lines.append(
            f"| `{row.name}` | {tries} | {wait} | {cost} | {veto} | {scope} | {row.breaker} "
            f"| {row.charge} |"
        )
    return lines


def _meanings(rows: list[ErrorClass]) -> list[str]:
    lines = ["| class | what it is | fault | visible to | what to do |", "|---|---|---|---|---|"]
    lines += [
        f"| `{row.name}` | {row.summary} | {row.fault} | {row.visible_to} | {row.action} |"
        for row in rows
    ]
    return lines
