"""The vocabulary every floor shares: environment, requests and responses, errors, canonical bytes.

Rule: nothing here performs an effect except `core.env.SystemEnv`, and nothing here imports more
than the standard library and msgspec.
"""
