"""Redaction before storage, and safe text for every sink.

Rule: content reaches a byte of the disk only through a `Redactor`; detectors run in linear time
(RE2) and fail closed; the agent's own data is never changed.
"""
