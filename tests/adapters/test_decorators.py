"""Decorated functions: guarded and recorded, and otherwise what they were."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import threading

import anthropic
import openai
import pytest
from google import genai
from google.genai import types
from mypy import api
from rows import only_pack, packs, real_tower, spans

from tests.agents import make_tower
from towerkit.core.errors import AttemptTimeout, NoProgress, UsageError
from towerkit.faults import FaultServer, Reply, Status
from towerkit.reliability.breaker import Limits
from towerkit.reliability.policy import Policy

QUICK = Policy(backoff_cap_s=0.001)


class Broken(Exception):
    """What a tool of a test raises."""


class Hostile:
    """Raises whenever it is looked at."""

    def __getattr__(self, name):
        raise Broken(name)

    def __repr__(self):
        raise Broken("repr")

    __str__ = __eq__ = __hash__ = __repr__


def flaky(times, answer=7):
    """Return a function that raises `times` times and then answers, and the list of its calls."""
    calls = []

    def fn(order: int) -> int:
        """Look an order up."""
        calls.append(order)
        if len(calls) <= times:
            raise Broken("no")
        return answer

    return fn, calls


@pytest.mark.parametrize("awaited", [False, True])
def test_a_decorated_call_in_a_run_is_the_call_run_tool_makes(tmp_path, awaited):
    """Positional, named, plain or async: the pack is the same, byte for byte."""

    def look_up(order):
        return {"order": order}

    async def alook_up(order):
        return {"order": order}

    def pack_of(folder, agent):
        with make_tower(tmp_path / folder).run("orders") as run:
            agent(run.tower, run)
        return run.pack

    def decorated(tower, run):
        if awaited:
            fn = tower.tool(idempotent=True, name="look_up", timeout_s=5)(alook_up)
            assert [asyncio.run(fn(7)), asyncio.run(fn(order=8))] == [{"order": 7}, {"order": 8}]
        else:
            fn = tower.tool(idempotent=True, timeout_s=5)(look_up)
            assert [fn(7), fn(order=8)] == [{"order": 7}, {"order": 8}]

    def by_hand(tower, run):
        for order in (7, 8):
            run.tool(look_up, {"order": order}, idempotent=True, timeout_s=5)

    assert pack_of("a", decorated).digest == pack_of("b", by_hand).digest


@pytest.mark.parametrize("awaited", [False, True])
def test_outside_of_any_run_a_call_is_a_run_of_its_own(tmp_path, awaited):
    """No evidence is lost: task, answer and error are in a pack."""
    tower = make_tower(tmp_path)

    @tower.tool(idempotent=False)
    def look_up(order):
        if order == 13:
            raise Broken("no order 13")
        return {"order": order}

    @tower.tool(idempotent=False, name="look_up")
    async def alook_up(order):
        return look_up.__wrapped__(order)

    def call(order):
        return asyncio.run(alook_up(order)) if awaited else look_up(order)

    assert call(7) == {"order": 7}
    pack = only_pack(tower)
    assert pack.manifest["identity"]["scenario"] == "look_up"
    (root,) = spans(pack, "run")
    assert pack.content(root["response_digest"]) == {"order": 7}
    with pytest.raises(Broken) as caught:
        call(13)
    assert caught.value.tower.decision == "not_idempotent"
    assert [p.manifest["status"] for p in packs(tower)].count("failed") == 1


@pytest.mark.parametrize("idempotent", [False, True])
def test_only_an_idempotent_tool_is_run_again(tmp_path, idempotent):
    """One failure: with idempotent=True the answer comes, without it the original exception."""
    fn, calls = flaky(1)
    look_up = make_tower(tmp_path).tool(idempotent=idempotent)(fn)
    if idempotent:
        assert look_up(1) == 7
        assert calls == [1, 1]
    else:
        with pytest.raises(Broken, match="no"):
            look_up(1)
        assert calls == [1]


def test_every_way_to_pass_arguments_works_and_is_recorded_by_name(tmp_path):
    """Positional-only, *args, **kwargs and methods get what was passed; evidence has the names."""
    tower = make_tower(tmp_path)

    class Desk:
        @tower.tool(idempotent=True)
        def note(self, first, /, *rest, **more):
            return (self, first, rest, more)

    desk = Desk()
    with tower.run("desk") as run:
        assert desk.note(1, 2, 3, first=4, x=5) == (desk, 1, (2, 3), {"first": 4, "x": 5})
    (call,) = spans(run.pack, "call")
    shown = run.pack.content(call["request_digest"])
    assert shown == {"tool": "note", "arguments": {"first": 1, "rest": [2, 3], "x": 5}}


def test_arguments_that_do_not_fit_are_the_callers_mistake(tmp_path):
    """Python's own TypeError comes back, recorded as tool_args_invalid and not retried."""
    tower = make_tower(tmp_path)

    @tower.tool(idempotent=True)
    def look_up(order):
        return order

    with pytest.raises(TypeError, match=r"look_up\(\) got an unexpected keyword argument 'ordr'"):
        look_up(ordr=7)
    (attempt,) = spans(only_pack(tower), "attempt")
    assert attempt["error_class"] == "tool_args_invalid"


def test_objects_without_a_plain_form_never_look_like_a_loop(tmp_path):
    """Equal-looking requests and answers of opaque objects go on; equal plain ones are stopped."""
    tower = make_tower(tmp_path)

    @tower.tool(idempotent=True)
    def use(handle, answer=None):
        return answer or handle

    give = tower.tool(idempotent=True, name="give")(threading.Lock)
    with tower.run("loop") as run:
        for _ in range(5):
            handle = threading.Lock()
            assert use(handle) is handle
            assert use(handle, "same") == "same"
            assert give() is not handle
        answers = [use("same") for _ in range(3)]
        with pytest.raises(NoProgress):
            use("same")
    assert answers == ["same"] * 3
    assert run.pack.manifest["status"] == "completed"


def test_what_evidence_cannot_hold_does_not_break_the_call(tmp_path):
    """Hostile objects, cycles and raising dataclasses: the agent gets the very object."""

    @dataclasses.dataclass
    class Holder:
        inside: object

    cycle = []
    cycle.append(cycle)
    tower = real_tower(tmp_path)
    same = tower.tool(idempotent=True, name="same")(lambda value: value)
    answer = tower.model(name="m", provider="p")(lambda value: value)
    task = tower.agent("same")(lambda value: value)
    for value in (Hostile(), cycle, Holder(Hostile()), {1: Hostile()}, b"\xff", Hostile):
        for call in (same, answer, task):
            assert call(value) is value
    assert len(packs(tower)) == 18


def test_what_is_no_single_answer_is_refused_when_it_is_decorated(tmp_path):
    """Generators, classes and misplaced decorators: one sentence, before anything runs."""
    tower = make_tower(tmp_path)

    def pieces():
        yield 1

    async def apieces():
        yield 1

    class Callable:
        def __call__(self):
            yield 1

    for decorate in (tower.tool(idempotent=True), tower.model(name="m", provider="p"),
                     tower.agent("a")):  # fmt: skip
        for fn in (pieces, apieces, Callable()):
            with pytest.raises(UsageError, match=r"run\.stream"):
                decorate(fn)
        with pytest.raises(UsageError, match="below @staticmethod"):
            decorate(staticmethod(lambda: 1))
        for thing in (Callable, 7):
            with pytest.raises(UsageError, match="expects a function"):
                decorate(thing)


def test_name_docstring_and_signature_stay(tmp_path):
    """Frameworks read them to describe a tool to a model."""
    tower = make_tower(tmp_path)
    fn, _ = flaky(0)
    for decorate in (tower.tool(idempotent=True), tower.model(name="m", provider="p"),
                     tower.agent("a")):  # fmt: skip
        guarded = decorate(fn)
        assert (guarded.__name__, guarded.__doc__) == ("fn", "Look an order up.")
        assert inspect.signature(guarded) == inspect.signature(fn)
        assert not inspect.iscoroutinefunction(guarded)

    async def afn():
        return 1

    assert inspect.iscoroutinefunction(tower.tool(idempotent=True)(afn))


def test_a_tool_with_a_time_out_is_cut(tmp_path):
    """The outcome is unknown, and says so."""
    tower = real_tower(tmp_path, policy=QUICK)
    stop = threading.Event()
    wait = tower.tool(idempotent=False, name="wait", timeout_s=0.05)(lambda: stop.wait(5))
    with pytest.raises(AttemptTimeout):
        wait()
    stop.set()
    assert spans(only_pack(tower), "call")[0]["error_class"] == "tool_timeout"


def ask_openai(server):
    def ask(text):
        with openai.OpenAI(base_url=server.openai_base_url, api_key="any", max_retries=0) as client:
            messages = [{"role": "user", "content": text}]
            return client.chat.completions.create(model="gpt-4o-mini", messages=messages)

    return "gpt-4o-mini", "openai", ask


def ask_responses(server):
    def ask(text):
        with openai.OpenAI(base_url=server.openai_base_url, api_key="any", max_retries=0) as client:
            return client.responses.create(model="gpt-4o-mini", input=text)

    return "gpt-4o-mini", "openai", ask


def ask_anthropic(server):
    def ask(text):
        with anthropic.Anthropic(
            base_url=server.anthropic_base_url, api_key="any", max_retries=0
        ) as client:
            messages = [{"role": "user", "content": text}]
            return client.messages.create(
                model="claude-sonnet-4-5", messages=messages, max_tokens=9
            )

    return "claude-sonnet-4-5", "anthropic", ask


def ask_gemini(server):
    def ask(text):
        http = types.HttpOptions(base_url=server.gemini_base_url)
        with genai.Client(api_key="any", http_options=http) as client:
            return client.models.generate_content(model="gemini-2.0-flash", contents=text)

    return "gemini-2.0-flash", "google", ask


@pytest.mark.filterwarnings("ignore:The model:DeprecationWarning")
@pytest.mark.parametrize("asker", [ask_openai, ask_responses, ask_anthropic, ask_gemini])
def test_a_model_call_of_any_sdk_is_guarded_and_priced(tmp_path, asker):
    """The SDK's object comes back; its usage is charged; hits are attempts, retries by class."""
    with FaultServer([Status(code=503), Reply(text="On its way.")]) as server:
        name, provider, ask = asker(server)
        tower = real_tower(tmp_path, policy=QUICK)
        answer = tower.model(name=name, provider=provider)(ask)("Where is order 7?")
        assert server.hits == 2
    assert "On its way." in repr(answer)
    pack = only_pack(tower)
    first, second = spans(pack, "attempt")
    assert first["error_class"] in {"overloaded", "upstream_5xx"}
    asked = second["gen_ai_usage_input_tokens"], second["gen_ai_usage_output_tokens"]
    assert all(n and n > 0 for n in asked)
    assert second["gen_ai_provider_name"] == provider
    (charge,) = pack.frame("costs").filter(wasted=False).to_dicts()
    assert charge["cost_nanousd"] > 0
    assert not charge["estimated"]
    said = pack.content(second["response_digest"])
    assert said["content"] == "On its way."
    assert said["native"]


def test_a_model_function_may_return_text_and_be_awaited(tmp_path):
    """Text has no usage: the charge is an estimate and says so; messages are kept one by one."""
    tower = real_tower(tmp_path)

    @tower.model(name="m", provider="p", timeout_s=1)
    async def ask(messages, max_tokens=5):
        await asyncio.sleep(0)
        return "fine"

    assert asyncio.run(ask([{"role": "user", "content": "hello"}], max_tokens=9)) == "fine"
    pack = only_pack(tower)
    (charge,) = pack.frame("costs").to_dicts()
    assert charge["estimated"]
    (call,) = spans(pack, "call")
    (message,) = pack.content(call["request_digest"])["messages"]
    assert pack.content(message) == {"role": "user", "content": "hello"}


def test_a_models_breaker_and_budget_are_the_towers(tmp_path):
    """Two failures open the breaker: the third call is refused and the function not called."""
    calls = []
    tower = real_tower(tmp_path, policy=QUICK, breaker=Limits(window=2, min_calls=2))

    @tower.model(name="m", provider="p")
    def ask(text):
        calls.append(text)
        raise openai.InternalServerError.__new__(openai.InternalServerError)

    for _ in range(3):
        with pytest.raises(Exception):  # noqa: B017  which of the two is not the point
            ask("hello")
    assert tower.breaker("model:p/m").state(tower.environment().mono_ns()) == "open"
    assert len(calls) < 6


def test_an_agents_run_has_its_arguments_and_its_answer(tmp_path):
    """Sync and async; tools below belong to the run; an exception is the original one."""
    tower = make_tower(tmp_path)
    look_up = tower.tool(idempotent=True)(flaky(0)[0])

    @tower.agent("orders")
    def handle(order, *, polite=True):
        if order == 13:
            raise Broken("unlucky")
        return {"order": look_up(order), "polite": polite}

    @tower.agent("orders")
    async def ahandle(order, *, polite=True):
        return handle.__wrapped__(order, polite=polite)

    for answer in (handle(1), asyncio.run(ahandle(1))):
        assert answer == {"order": 7, "polite": True}
    first = packs(tower)[0]
    (task,) = first.frame("inputs").filter(kind="task").to_dicts()
    assert first.content(task["response_digest"]) == {"order": 1}
    (root,) = spans(first, "run")
    assert first.content(root["response_digest"]) == {"order": 7, "polite": True}
    assert len(spans(first, "call")) == 1
    with pytest.raises(Broken):
        handle(13)


def test_a_result_that_json_cannot_carry_is_returned_and_not_recorded(tmp_path):
    """Nothing stands in its place: the run has no output."""
    tower = make_tower(tmp_path)
    made = tower.agent("orders")(threading.Lock)()
    assert made.acquire(blocking=False)
    (root,) = spans(only_pack(tower), "run")
    assert root["response_digest"] is None


TYPED = """
from typing import assert_type
from collections.abc import Callable, Coroutine
from typing import Any
from towerkit import Tower

tower = Tower()

@tower.tool(idempotent=True, timeout_s=2)
def look_up(order: int, deep: bool = False) -> list[str]: return []

@tower.model(name="m", provider="p")
async def ask(text: str) -> bytes: return b""

@tower.agent("a")
def handle(order: int) -> str: return ""

assert_type(look_up(1, deep=True), list[str])
assert_type(handle(1), str)
async def use() -> None: assert_type(await ask("x"), bytes)

look_up("one")  # wrong
tower.tool()(look_up)  # idempotent has no default
"""


def test_types_are_kept_for_strict_users(tmp_path):
    """Mypy --strict sees arguments and results, and refuses a wrong one and a missing keyword."""
    page = tmp_path / "typed.py"
    page.write_text(TYPED)
    cache = str(tmp_path / "cache")
    out, _, _ = api.run(["--strict", "--no-error-summary", "--cache-dir", cache, str(page)])
    errors = [line for line in out.splitlines() if ": error:" in line]
    assert len(errors) == 2, out
    assert 'incompatible type "str"; expected "int"' in errors[0]
    assert 'Missing named argument "idempotent"' in errors[1]


def test_a_task_that_outlives_its_run_gets_runs_of_its_own(tmp_path):
    """What is called after the run was sealed is not lost in it."""
    tower = real_tower(tmp_path)

    @tower.tool(idempotent=True)
    async def look_up(order):
        return order

    async def later(sealed):
        await sealed.wait()
        return await look_up(7)

    async def main():
        sealed = asyncio.Event()
        with tower.run("orders"):
            task = asyncio.create_task(later(sealed))
        sealed.set()
        return await task

    assert asyncio.run(main()) == 7
    assert [p.manifest["identity"]["scenario"] for p in packs(tower)] == ["orders", "look_up"]


@pytest.mark.parametrize("tenant", ["acme", lambda order, whose: whose])
def test_a_decorated_agent_says_on_whose_behalf_it_runs(tmp_path, tenant):
    """A name, or what the call's arguments say; plain and asyncio."""
    tower = make_tower(tmp_path)
    desk = tower.agent("desk", tenant=tenant)(lambda order, whose: order)

    async def later(order, whose):
        return order

    assert (desk(7, whose="acme"), asyncio.run(tower.agent("b", tenant=tenant)(later)(8, "acme"))) \
        == (7, 8)  # fmt: skip
    assert [p.manifest["identity"]["tenant"] for p in packs(tower)] == ["acme"] * 2
    tower = make_tower(tmp_path / "other")
    tower.agent("desk")(lambda order: order)(9)
    assert "tenant" not in only_pack(tower).manifest["identity"]
