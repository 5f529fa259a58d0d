"""Every class a provider can produce, through pydantic-ai's chat model under the tower."""

from __future__ import annotations

import pytest
from rows import only_pack, real_tower, spans
from test_pydantic_ai import asked, openai_model, streamed

from towerkit.adapters.pydantic_ai import TowerModel
from towerkit.faults import (
    NOT_OVER_HTTP,
    CleanEnd,
    Cut,
    FaultServer,
    Reply,
    Script,
    SseError,
    scripts,
)
from towerkit.faults.steps import step_of
from towerkit.faults.wire import WIRES, Asked
from towerkit.reliability.breaker import Limits
from towerkit.reliability.policy import Policy
from towerkit.reliability.taxonomy import TAXONOMY

# Whole answers, or the run's own deadline: no error of the provider's.
NO_ERROR = {"output_truncated", "content_filtered", "tool_args_invalid", "tool_unknown",
            "no_progress", "output_invalid", "timeout_total"}  # fmt: skip
# pydantic-ai hides a transport's error behind its own; either class is true of it.
ALSO = {
    "upstream_5xx": {"timeout_read"},
    "timeout_connect": {"timeout_read", "connect_failed"},
    "timeout_read": {"stream_interrupted"},
    "stream_interrupted": {"timeout_read", "malformed_response", "connect_failed"},
    "stream_truncated": {"malformed_response", "stream_interrupted"},
    "malformed_response": {"stream_truncated", "upstream_5xx"},
}
TEXT = "It was sent on Monday."


def cases():
    for name in TAXONOMY:
        if name in NO_ERROR or name in NOT_OVER_HTTP:
            continue
        for script in scripts(name, retry_after_s=0.01, drip_s=0.05).get("openai_chat", ()):
            for way in (asked, streamed):
                if script.port == "open" and script.stream in {None, way is streamed}:
                    yield pytest.param(name, script, way, id=f"{name}-{script.name}-{way.__name__}")


def tower_for(folder, *, attempt_timeout_s):
    policy = Policy(attempt_timeout_s=attempt_timeout_s, backoff_cap_s=0.001, deadline_s=20.0)
    return real_tower(folder, policy=policy, breaker=Limits(min_calls=20))


@pytest.mark.parametrize(("name", "script", "way"), list(cases()))
def test_a_fault_gets_its_class_and_hits_are_attempts(tmp_path, name, script, way):
    """The agent gets an error; the server saw as many requests as the pack has attempts."""
    tower = tower_for(tmp_path, attempt_timeout_s=0.3 if name.startswith("timeout") else 2.0)
    with FaultServer(script) as server:
        with pytest.raises(Exception) as caught:
            way(TowerModel(tower, openai_model(server)))
        hits = server.hits
    attempts = spans(only_pack(tower), "attempt")
    assert hits == len(attempts) >= 1
    assert {a["error_class"] for a in attempts} <= {name} | ALSO.get(name, set())
    assert caught.value.tower.error_class in {name} | ALSO.get(name, set())


def chunks():
    asked_for = Asked(format="openai_chat", stream=True, include_usage=True)
    usage = WIRES["openai_chat"].usage(Reply().usage)
    return len(WIRES["openai_chat"].events(Reply(text=TEXT), asked_for, usage))


ENDS = {
    "cut": lambda k: Cut(at_chunk=k),
    "clean": lambda k: CleanEnd(at_chunk=k),
    "error": lambda k: SseError(at_chunk=k),
}


@pytest.mark.parametrize("k", range(chunks() + 1))
@pytest.mark.parametrize("end", list(ENDS))
def test_a_stream_broken_at_any_chunk_is_whole_or_an_error(tmp_path, end, k):
    """Never a success without its end, and hits are attempts."""
    tower = tower_for(tmp_path, attempt_timeout_s=5.0)
    step = step_of(Reply(text=TEXT).with_(ENDS[end](k)))
    with FaultServer(Script(default=step)) as server:
        try:
            answer = streamed(TowerModel(tower, openai_model(server)))
        except Exception:
            answer = None
        hits = server.hits
    attempts = spans(only_pack(tower), "attempt")
    assert hits == len(attempts) >= 1
    # With the finish reason the answer is whole; usage and [DONE] come after it. pydantic-ai reads
    # on to [DONE], so what breaks there is an error with or without the tower.
    whole = k >= chunks() - (2 if end == "clean" else 0)
    assert (answer is not None) == whole
    assert [a["status"] for a in attempts].count("ok") == int(whole)
    if answer is not None:
        assert answer.text == TEXT
