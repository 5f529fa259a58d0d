"""Usage to money: dated prices and the ledger.

Rule: money is integer nano-US-dollars; unknown is None and stays None, never 0.
"""
