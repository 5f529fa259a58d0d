"""The shell: the only floor that performs effects, and only through the guard.

Rule: the guard never changes what the agent gets. An original exception is re-raised as it was,
with `e.tower` attached.
"""
