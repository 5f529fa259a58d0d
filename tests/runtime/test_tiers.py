"""Fresh credentials, larger windows, answers that say they failed, stand-ins for a model."""

from __future__ import annotations

import asyncio

import pytest

from tests.agents import make_tower
from towerkit.core.env import VirtualEnv
from towerkit.core.errors import ControlError
from towerkit.core.types import Model, Response
from towerkit.replay import replay
from towerkit.runtime import models

HELLO = [{"role": "user", "content": "hello"}]


class Scripted:
    """A model that raises or answers what its script says, and counts."""

    def __init__(self, *script, name="m", provider="simulated", **fields):
        self.script, self.calls = list(script), 0
        self.model = Model(
            name=name, provider=provider, complete=self._complete, simulated=True, **fields
        )

    def _complete(self, request, timeout_s):
        self.calls += 1
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(step, Exception):
            raise step
        return step if isinstance(step, Response) else Response(content=step)


def refused():
    return ControlError("401: the key is refused", error_class="auth_failed")


def events(pack):
    calls = pack.frame("spans").filter(kind="call")
    return [e for text in calls["events"] for e in __import__("json").loads(text)]


def run_of(store, *chain, call=lambda run: run.model(HELLO)):
    tower = make_tower(store, models=[c.model if isinstance(c, Scripted) else c for c in chain])
    with tower.run("x") as run:
        answer = call(run)
    return run.pack, answer


@pytest.mark.parametrize("how", ["sync", "async"])
def test_a_refused_key_is_renewed_once_and_the_call_goes_on(tmp_path, how):
    """The credential is asked for once; the second attempt answers; a replay asks for nothing."""
    asked = []
    model = Scripted(refused(), "hi", renew=lambda: asked.append(1))

    def agent(run, task=None):
        return run.model(HELLO) if how == "sync" else asyncio.run(run.amodel(HELLO))

    pack, answer = run_of(tmp_path, model, call=agent)
    assert (answer.content, answer.tier, model.calls, asked) == ("hi", 0, 2, [1])
    assert [e["name"] for e in events(pack)] == ["renew"]
    assert replay(pack, agent).equal
    assert asked == [1]


@pytest.mark.parametrize("script", [(refused(), refused(), "never"), (refused(), "never")])
def test_a_key_that_stays_refused_goes_to_another_provider(tmp_path, script):
    """Refused again after renewal, or no fresh key to be had: the other provider answers."""

    def renew():
        if len(script) == 2:
            raise PermissionError("the vault is sealed")

    first = Scripted(*script, provider="a", renew=renew)
    second = Scripted("from b", name="n", provider="b")
    pack, answer = run_of(tmp_path, first, second)
    assert (answer.content, answer.tier, answer.fallback_reason) == ("from b", 1, "auth_failed")
    assert first.calls == len(script) - 1
    assert replay(pack, lambda run, task: run.model(HELLO)).equal


def test_too_long_skips_windows_that_are_no_larger(tmp_path):
    """Of three models only the one with a larger window is asked; the replay passes over it too."""
    long = ControlError("too long", error_class="context_too_long")
    small = Scripted(long, name="s", context_tokens=8_000)
    alike = Scripted("never", name="a", context_tokens=8_000)
    large = Scripted("read it", name="l", context_tokens=128_000)
    pack, answer = run_of(tmp_path, small, alike, large)
    assert (answer.content, answer.tier, alike.calls) == ("read it", 2, 0)
    assert replay(pack, lambda run, task: run.model(HELLO)).equal


def test_an_answer_that_says_the_provider_failed_is_asked_for_again(tmp_path):
    """A finish reason `error` is no answer while a better one can be had."""
    model = Scripted(Response(content="hal", finish_reason="error"), "whole")
    pack, answer = run_of(tmp_path, model)
    assert (answer.content, model.calls) == ("whole", 2)
    attempts = pack.frame("spans").filter(kind="attempt")
    assert attempts["error_class"].to_list() == ["upstream_5xx", None]
    assert pack.frame("costs")["wasted"].to_list() == [True, False]
    assert replay(pack, lambda run, task: run.model(HELLO)).equal


def test_the_last_such_answer_is_handed_on_and_never_counted_as_good(tmp_path):
    """Without a better one the agent gets what it would have got; the spans say what it was."""
    model = Scripted(Response(content="hal", finish_reason="error"))
    pack, answer = run_of(tmp_path, model)
    assert (answer.content, answer.finish_reason, model.calls) == ("hal", "error", 3)
    spans = pack.frame("spans").filter(kind="call")
    assert (spans["status"][0], spans["error_class"][0]) == ("error", "upstream_5xx")


@pytest.mark.parametrize(
    ("reason", "name"), [("length", "output_truncated"), ("content_filter", "content_filtered"),
                         ("refusal", "content_filtered")]
)  # fmt: skip
def test_a_cut_or_filtered_answer_stands_and_is_flagged(tmp_path, reason, name):
    """No second model is asked: neither would another token limit help nor a weaker filter."""
    model = Scripted(Response(content="", finish_reason=reason))
    other = Scripted("weaker", name="o")
    pack, answer = run_of(tmp_path, model, other)
    assert (answer.finish_reason, answer.tier, other.calls, model.calls) == (reason, 0, 0, 1)
    assert {"name": "flag", "reason": name} in events(pack)
    assert set(pack.frame("spans")["status"]) == {"ok"}


DOWN = ControlError("down", error_class="overloaded")


def test_the_cache_answers_what_was_answered_before(tmp_path):
    """The same request, word for word; another request falls through to the template."""
    cache = models.cache(limit=8)
    live = Scripted("fresh", DOWN)
    chain = (live, cache, models.template("We will call you back."))
    tower = make_tower(tmp_path, models=[c.model if isinstance(c, Scripted) else c for c in chain])
    with tower.run("x") as run:
        assert run.model(HELLO).tier == 0
        again = run.model(HELLO)
        other = run.model([{"role": "user", "content": "something else"}])
    assert (again.content, again.provider, again.fallback_reason) == (
        "fresh",
        "cache",
        "overloaded",
    )
    assert (other.content, other.provider, other.tier) == ("We will call you back.", "template", 2)
    assert other.fallback_reason == "overloaded"
    costs = run.pack.frame("costs").filter(provider="cache")
    assert costs["cost_nanousd"].to_list() == [0]
    assert set(run.pack.frame("spans").filter(kind="attempt")["gen_ai_provider_name"]) == {
        "simulated", "cache", "template",
    }  # fmt: skip


def test_the_cache_forgets_the_oldest_and_never_its_own_answers(tmp_path):
    """Two requests fit; the one asked for longest ago went."""
    cache = models.cache(limit=2)
    live = Scripted("1", "2", "3", DOWN)
    tower = make_tower(tmp_path, models=[live.model, cache])
    with tower.run("x") as run:
        asks = [[{"role": "user", "content": str(i)}] for i in range(3)]
        for ask in asks:
            run.model(ask)
        assert run.model(asks[2]).content == "3"
        with pytest.raises(ControlError):
            run.model(asks[0])


def test_a_human_takes_over_last(tmp_path):
    """What is handed over is the request; the answer says who gave it and why."""
    desk = []

    def hand_over(request):
        desk.append(request.messages[-1]["content"])
        return "A colleague will answer."

    pack, answer = run_of(tmp_path, Scripted(DOWN), models.human(hand_over))
    assert desk == ["hello"]
    assert (answer.provider, answer.finish_reason) == ("human", "handed_over")
    assert answer.fallback_reason == "overloaded"
    assert replay(pack, lambda run, task: run.model(HELLO)).equal


def test_a_refused_content_is_not_answered_by_a_template(tmp_path):
    """Content filters never fall through, whatever the next tier is."""
    blocked = Scripted(ControlError("blocked", error_class="content_filtered"))
    with pytest.raises(ControlError) as caught:
        run_of(tmp_path, blocked, models.template("anything"))
    assert caught.value.tower.error_class == "content_filtered"


def needs_json(response):
    """Return what is wrong with an answer that is no JSON object."""
    return None if response.content.startswith("{") else "expected a JSON object"


@pytest.mark.parametrize("how", ["sync", "async"])
def test_an_answer_that_does_not_fit_is_asked_for_again_with_the_error(tmp_path, how):
    """The model is told what was wrong, at most twice."""
    model = Scripted("no", "still no", "{}")

    def agent(run, task=None):
        if how == "sync":
            return run.model(HELLO, check=needs_json)
        return asyncio.run(run.amodel(HELLO, check=needs_json))

    pack, answer = run_of(tmp_path, model, call=agent)
    assert (answer.content, model.calls) == ("{}", 3)
    calls = pack.frame("spans").filter(kind="call")
    assert calls["status"].to_list() == ["ok"] * 3
    assert replay(pack, agent).equal


def test_after_two_corrections_the_agent_gets_the_error(tmp_path):
    """OutputInvalid carries the last answer and what was wrong with it."""
    model = Scripted("no")
    tower = make_tower(tmp_path, models=[model.model])
    with (
        pytest.raises(ControlError, match="expected a JSON object") as caught,
        tower.run("x") as run,
    ):
        run.model(HELLO, check=needs_json)
    assert (caught.value.error_class, caught.value.answer.content) == ("output_invalid", "no")
    assert model.calls == 3
    assert run.pack.manifest["error_class"] == "output_invalid"


def test_a_growing_conversation_that_learns_nothing_is_stopped(tmp_path):
    """The model repeats itself while its input grows: no new answer, no new tool result."""
    env = VirtualEnv(1)
    tower = make_tower(tmp_path, models=[models.function(lambda r: "let me think", simulated=True)])
    messages, made = list(HELLO), 0
    with pytest.raises(ControlError, match="no progress"), tower.run("x", env=env) as run:
        for _ in range(50):
            messages.append(run.model(messages).as_message())
            made += 1
    assert made == 6
    assert run.pack.manifest["error_class"] == "no_progress"


def test_a_conversation_that_learns_goes_on(tmp_path):
    """New answers, or the same answer between new tool results, are progress."""
    said = iter(str(i // 3) for i in range(100))
    tower = make_tower(tmp_path, models=[models.function(lambda r: next(said), simulated=True)])
    messages = list(HELLO)
    with tower.run("x") as run:
        for _ in range(30):
            messages.append(run.model(messages).as_message())
    same = make_tower(tmp_path, models=[models.function(lambda r: "next", simulated=True)])
    with same.run("y") as run:
        for i in range(30):
            messages.append(run.model(messages).as_message())
            run.tool(lambda i=i: i, name="read", idempotent=True)
