"""Deciding what to do about a failure: taxonomy, classification, policy.

Rule: pure. No I/O, no clock, no randomness of its own; what happened comes in, what to do goes out.
"""
