"""towerkit: a production control tower for LLM agents."""

__version__ = "0.1.0"
