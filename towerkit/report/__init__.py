"""The face: figures, tables, the strict notebook runner, self-contained HTML.

Rule: text that came from a prompt, a tool or a ticket is attacker-controlled. It is cleaned before
it is drawn, escaped where it is written, and no page that leaves here can run a script or send a
request.
"""

from towerkit.report.run_notebook import Report, run_notebook, write_result

__all__ = ["Report", "run_notebook", "write_result"]
