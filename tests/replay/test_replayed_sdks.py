"""Agents on the openai and anthropic SDKs: recorded from a server, replayed from the tape alone."""

from __future__ import annotations

import pytest
from sdk_agents import Desk

from towerkit.faults import Cut, FaultServer, Reply, Status
from towerkit.replay import replay

TASK = {"question": "Where is order 7 of ann@example.com?"}
LONG = "It was sent to ann@example.com on Monday, and it arrives on Thursday."
SCRIPTS = {
    "openai": [Status(code=503), Reply(text=LONG), Reply(text=LONG)],
    "responses": [Reply(text=LONG), Reply(text="one two three four five six")],
    "anthropic": [Reply(text="One."), Status(code=529), Reply(text="Two."), Reply(text=LONG)],
    "failing": [Status(code=401), Reply(text=LONG).with_(Cut(at_chunk=0, reset=True))],
}


def recorded(tmp_path, monkeypatch, kind):
    """Record the agent over a server that is gone afterwards; return pack and server's hits."""
    desk = Desk(tmp_path, provider="openai", budget_usd=1.0 if kind == "failing" else None)
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "sk-secret-of-the-test")
    with FaultServer(SCRIPTS[kind], default=Reply(text="Well.")) as server:
        monkeypatch.setenv("DESK_URL", server.anthropic_base_url)
        outcome = getattr(desk, kind)(TASK)
        if kind == "anthropic":
            import asyncio

            asyncio.run(outcome)
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name)
    (pack,) = desk.tower.store.packs()
    return pack, desk, server


@pytest.mark.parametrize("kind", list(SCRIPTS))
def test_an_agent_on_an_sdk_replays_without_network_or_key(tmp_path, monkeypatch, kind):
    """Retries, two calls at once, streams, errors in the SDK's own types, a budget: all equal."""
    pack, desk, server = recorded(tmp_path, monkeypatch, kind)
    before = server.hits
    report = replay(pack, getattr(desk, kind))
    assert report.divergence is None, report.lines()
    assert report.equal
    assert report.spans_replayed == pack.frame("spans").height
    assert server.hits == before
    assert len(desk.tower.store.packs()) == 1
