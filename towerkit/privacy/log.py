"""The package's log, and the only door to it.

Rule: whatever a line says was redacted and cleaned, the exception's text and traceback too. An
exception comes from a provider, a backend or an agent, and repeats what it was given; of it the
record keeps the type and the redacted text, not the object, whose frames hold everything.
"""

from __future__ import annotations

import logging

from towerkit.privacy.safe_text import clean

log = logging.getLogger("towerkit")
_LONGEST = 20_000  # characters of a line and of a traceback
_FORMAT = logging.Formatter()


class Safe(logging.Filter):
    """Makes a record safe before any handler sees it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace message and traceback by what may be shown; every record passes."""
        record.msg, record.args = _shown(record.getMessage()), None
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = _shown(_FORMAT.formatException(record.exc_info))
            record.exc_info = (record.exc_info[0], None, None)  # type: ignore[assignment]
        return True


def _shown(text: str) -> str:
    from towerkit.privacy.keys import log_redactor  # noqa: PLC0415  redacting logs too

    return clean(log_redactor().text(clean(text)[:_LONGEST], alone=False))


log.addFilter(Safe())
