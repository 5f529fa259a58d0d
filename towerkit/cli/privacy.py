"""`towerkit redact`: what the detectors find in a text, and the text without it."""

from __future__ import annotations

from typing import Any

import msgspec

from towerkit.cli.base import answer_lines, cli


class _Line(msgspec.Struct, forbid_unknown_fields=False):
    """What a line of standard input must hold."""

    text: str


@cli.command("redact")
def redact() -> None:
    """Redact texts: JSON lines in, JSON lines out.

    Each line is {"text"}, answered {"text", "spans": [{"start", "end", "class"}]}: offsets are
    characters (code points) of the text that came in. A line that is not is answered
    {"error": …}, and the exit code is then 2. Classes: docs/privacy.md.
    """
    from towerkit.privacy.keys import local_redactor

    redactor = local_redactor()

    def answer(line: bytes) -> tuple[Any, bool]:
        try:
            given = msgspec.json.decode(line, type=_Line)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            return {"error": f'expected {{"text": "…"}} on one line, got: {error}'}, False
        shown, spans = redactor.shown(given.text)
        return {"text": shown, "spans": spans}, True

    answer_lines(answer)
