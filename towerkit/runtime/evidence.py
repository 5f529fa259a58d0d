"""What became of a run's record: how many spans are where, and what went wrong on the way.

Rule: started = in the pack + in the journal + dropped, and a drop is never silent. Nothing here
raises into the agent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from towerkit.telemetry.journal import span_ids

if TYPE_CHECKING:
    from towerkit.runtime.run import Run


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """Spans of a run that has ended, by where they are.

    `in_journal` counts those of a run that could not be sealed: `towerkit pack recover` makes its
    pack once the store can be written again. `problems` are sentences, in the order they happened.
    """

    spans_started: int
    spans_in_pack: int
    spans_in_journal: int
    problems: tuple[str, ...] = ()

    @property
    def spans_dropped(self) -> int:
        """Spans that are nowhere."""
        return self.spans_started - self.spans_in_pack - self.spans_in_journal


def evidence_of(run: Run) -> Evidence:
    """Return what became of the record of `run`; waits until it is sealed."""
    recorder, pack = run.recorder, run.pack
    journal, problems = recorder.journal, []
    in_pack = in_journal = 0
    started = recorder.next_seq
    if journal is not None and journal.error is not None:
        why = journal.error.strerror or journal.error
        problems.append(f"journal: {why}; {journal.lost} records are not in it")
    if run.storage_error is not None:
        problems.append(str(run.storage_error))
    if pack is not None:
        counts = pack.manifest["spans"]
        # A call that two have recorded, the guard and an instrumented library, is one.
        started, in_pack = counts["started"], counts["started"] - counts["dropped"]
    elif journal is not None:
        try:
            in_journal = len(span_ids(journal.path))
        except OSError as error:
            problems.append(f"journal: {error.strerror}")
    if recorder.late:
        problems.append(f"{recorder.late} records came after the run had ended")
    return Evidence(
        spans_started=started, spans_in_pack=in_pack, spans_in_journal=in_journal,
        problems=tuple(problems),
    )  # fmt: skip
