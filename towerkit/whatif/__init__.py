"""Last night under another policy, budget, price book or order of models, without running it.

Rule: the record decides or the row says that it does not. Every number is exact, bounded with its
reason, or unknown; nothing is invented. A judge: no runtime, no telemetry, no network.
"""
