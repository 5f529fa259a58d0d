"""Plug-ins for tests: they run in a real process of their own."""

from __future__ import annotations

import os
import threading


class Names:
    """Finds one name wherever it stands."""

    def find(self, text):
        """Answer as the class says."""
        at = text.find("Ada Lovelace")
        return [] if at < 0 else [(at, at + 12, "person")]


class Slow:
    """Never answers."""

    def find(self, text):
        """Answer as the class says."""
        threading.Event().wait(60)


class Crash:
    """Dies at the first text."""

    def find(self, text):
        """Answer as the class says."""
        os._exit(3)


class Nonsense:
    """Answers spans outside the text."""

    def find(self, text):
        """Answer as the class says."""
        return [(0, 10_000, "person")]
