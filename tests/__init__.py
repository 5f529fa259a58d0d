"""Tests mirror the package, floor by floor."""
