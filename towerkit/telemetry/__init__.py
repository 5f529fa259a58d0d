"""Evidence while it is being made: the recorder of a run, and the way out to OpenTelemetry.

Rule: every started span ends exactly once, and what cannot be recorded is counted, never raised
into the agent.
"""
