"""Runs recorded by others, admitted as packs: one pack a run, one batch of scores a file.

Rule: nothing is invented. What a source did not record (a time, a price, a model's name) is null
here; a record that does not hold is refused whole, with its file, its number and the field named;
the same file twice changes nothing.
"""

from towerkit.ingest.admit import FORMATS, IngestReport, ingest

__all__ = ["FORMATS", "IngestReport", "ingest"]
