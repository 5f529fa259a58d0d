"""Root cause: what failing runs have that passing runs have not, and one run as a tree.

Rule: an association is named as one. A run that infrastructure ended, or that nobody scored, is
undecided: it is counted apart and is evidence for neither side.
"""

from towerkit.packs.tree import SpanRow, span_tree
from towerkit.rca.contrast import Contrast, RcaReport, failing_vs_passing

__all__ = ["Contrast", "RcaReport", "SpanRow", "failing_vs_passing", "span_tree"]
