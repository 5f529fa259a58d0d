"""Every class a provider can produce, through every adapter: its class, and hits are attempts."""

from __future__ import annotations

import contextlib

import pytest
from four_adapters import FORMATS, SDK_WARNING, Adapters

from towerkit.faults import NOT_OVER_HTTP, scripts
from towerkit.reliability.policy import Policy
from towerkit.reliability.taxonomy import TAXONOMY

pytestmark = pytest.mark.filterwarnings(SDK_WARNING)

# Answers that are whole, whatever is in them: the agent decides what they mean.
ANSWERS = {"output_truncated", "content_filtered", "tool_args_invalid", "tool_unknown",
           "no_progress", "output_invalid"}  # fmt: skip
OURS = {"timeout_total"}  # the deadline is the run's, whatever the provider does
# What an adapter sees is less than what the provider did; either class is true of it.
ALSO = {
    "malformed_response": {"stream_truncated", "upstream_5xx"},
    "upstream_5xx": {"timeout_read"},  # a 504 with the word DEADLINE_EXCEEDED is both
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
            for script in variants:
                for stream in (False, True):
                    if script.stream in {None, stream}:
                        kind = "stream" if stream else "whole"
                        yield pytest.param(name, form, script, stream,
                                           id=f"{name}-{form}-{script.name}-{kind}")  # fmt: skip


@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(("name", "form", "script", "stream"), list(cases()))
def test_a_fault_gets_its_class_and_hits_are_attempts(
    tmp_path, adapters, name, form, script, stream, awaited
):
    """The agent gets an error of the right class; the server saw as many requests as the pack."""
    with contextlib.ExitStack() as stack:
        if script.port != "open":
            adapters = Adapters(script)
            stack.callback(adapters.close)
        done = adapters.ask(
            tmp_path,
            form,
            script,
            stream=stream,
            awaited=awaited,
            attempt_timeout_s=0.3 if name.startswith("timeout") else 2.0,
        )
    assert done.error is not None
    assert set(done.attempts["error_class"]) <= {name} | ALSO.get(name, set())
    assert done.error.tower.error_class in {name} | ALSO.get(name, set())
    assert 1 <= done.attempts.height <= min(Policy().max_attempts, TAXONOMY[name].attempts)
    if script.port == "open":
        assert done.hits == done.attempts.height
    assert done.run.ledger.reserved == 0


def test_every_adapter_and_every_class_is_in_it():
    """A class that a provider can produce is either an error of some case or an answer."""
    seen = {case.values[0] for case in cases()}
    assert seen == set(TAXONOMY) - set(NOT_OVER_HTTP) - ANSWERS - OURS
    assert {case.values[1] for case in cases()} == set(FORMATS)
