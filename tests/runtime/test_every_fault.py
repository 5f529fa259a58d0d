"""Every class a provider can produce, through every adapter: its class, and hits are attempts."""

from __future__ import annotations

import pytest
from anthropic import Anthropic
from openai import OpenAI

from towerkit.faults import NOT_OVER_HTTP, FaultServer, scripts
from towerkit.reliability.breaker import Limits
from towerkit.reliability.policy import Policy
from towerkit.reliability.taxonomy import TAXONOMY
from towerkit.runtime import models
from towerkit.runtime.tower import Tower

HELLO = [{"role": "user", "content": "hello"}]
# Answers that are whole, whatever is in them: the agent decides what they mean.
ANSWERS = {"output_truncated", "content_filtered", "tool_args_invalid", "tool_unknown",
           "no_progress", "output_invalid", "unknown"}  # fmt: skip
OURS = {"timeout_total"}  # the deadline is the run's, whatever the provider does
ADAPTERS = ("openai_chat", "anthropic")
# What an adapter sees is less than what the provider did; either class is true of it.
ALSO = {
    "malformed_response": {"stream_truncated", "upstream_5xx"},
    "timeout_read": {"stream_interrupted"},
    "timeout_connect": {"timeout_read"},
    "stream_interrupted": {"timeout_read", "malformed_response"},
    "stream_truncated": {"malformed_response", "stream_interrupted"},
}


def cases():
    for name in TAXONOMY:
        if name in ANSWERS | OURS or name in NOT_OVER_HTTP:
            continue
        for form, variants in scripts(name, retry_after_s=0.01, drip_s=0.05).items():
            if form not in ADAPTERS:
                continue
            for script in variants:
                for stream in (False, True):
                    if script.stream in {None, stream}:
                        kind = "stream" if stream else "whole"
                        yield pytest.param(name, form, script, stream,
                                           id=f"{name}-{form}-{script.name}-{kind}")  # fmt: skip


@pytest.mark.parametrize(("name", "form", "script", "stream"), list(cases()))
def test_a_fault_gets_its_class_and_hits_are_attempts(
    tmp_path, monkeypatch, name, form, script, stream
):
    """The agent gets an error of the right class; the server saw as many requests as the pack."""
    policy = Policy(attempt_timeout_s=0.6, backoff_cap_s=0.001, deadline_s=20.0)
    with FaultServer(script) as server:
        make, sdk, base = {
            "openai_chat": (models.openai, OpenAI, server.openai_base_url),
            "anthropic": (models.anthropic, Anthropic, server.anthropic_base_url),
        }[form]
        monkeypatch.setenv(f"{sdk.__name__.upper()}_API_KEY", "test-key")
        with sdk(base_url=base) as client:
            tower = Tower(store=tmp_path, models=[make("m-1", client=client)], policy=policy,
                          breaker=Limits(min_calls=20))  # fmt: skip
            with tower.run("x") as run, pytest.raises(Exception, match=r"\S") as caught:
                list(run.stream(HELLO)) if stream else run.model(HELLO)
        hits = server.hits
    attempts = run.pack.frame("spans").filter(kind="attempt")
    assert set(attempts["error_class"]) <= {name} | ALSO.get(name, set())
    assert caught.value.tower.error_class in {name} | ALSO.get(name, set())
    assert attempts.height <= policy.max_attempts
    if script.port == "open":
        assert hits == attempts.height
    assert run.ledger.reserved == 0
