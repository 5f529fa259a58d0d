"""Agents made up from a seed: what they do is a list of operations, how it goes is chance.

The world is never the same twice (latencies, answers and failures are drawn anew each time), so
that only the tape can make a replay equal. `Live.allowed` false makes any contact with it fail.
"""

# ruff: noqa: FBT001  a seed decides whether an agent is asynchronous

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from towerkit.core.errors import ControlError
from towerkit.core.types import Model, Response, ToolCall, Usage
from towerkit.privacy.keys import simulated_redactor
from towerkit.reliability.policy import Policy
from towerkit.runtime.tower import Tower

POLICY = Policy(backoff_cap_s=0.002, attempt_timeout_s=2.0, max_steps=400, max_repeats=50)
CHANCE = random.Random()
CALLS = frozenset({"model", "stream", "tool", "cut"})


class Live:
    """Whether the world may be touched."""

    allowed = True

    @classmethod
    def touch(cls) -> None:
        """Fail in a replay."""
        assert cls.allowed, "a replay touched the world"


class Flaky(ConnectionError):
    """What a tool raises and a policy retries."""


class NotThere(LookupError):
    """What a tool raises and an agent handles."""


TYPES = {"Flaky": Flaky, "NotThere": NotThere}


def fetch(item: str, ms: int) -> dict[str, Any]:
    """Return something about an item, late, or not at all."""
    Live.touch()
    time.sleep(ms * CHANCE.random() / 1000)
    luck = CHANCE.random()
    if luck < 0.1:
        raise Flaky("connection reset")
    if luck < 0.2:
        raise NotThere(f"no {item}")
    return {
        "item": item,
        "owner": f"u{CHANCE.randrange(9)}@example.com",
        "n": CHANCE.randrange(1000),
    }


async def afetch(item: str, ms: int) -> dict[str, Any]:
    """Do the same on an event loop."""
    Live.touch()
    await asyncio.sleep(ms * CHANCE.random() / 1000)
    if CHANCE.random() < 0.15:
        raise Flaky("connection reset")
    return {"item": item, "n": CHANCE.randrange(1000)}


def _answer(request: Any) -> Response:
    Live.touch()
    time.sleep(CHANCE.random() / 500)
    luck = CHANCE.random()
    if luck < 0.15:
        names = ("overloaded", "rate_limited", "upstream_5xx", "content_filtered")
        raise ControlError("the provider says no", error_class=CHANCE.choice(names))
    usage = Usage(input_tokens=50, output_tokens=9) if luck < 0.8 else None
    text = f"answer {CHANCE.randrange(1000)} for bob{CHANCE.randrange(9)}@example.com, and so on"
    calls = (ToolCall("c1", "fetch", {"item": "a"}),) if luck > 0.95 else ()
    return Response(content=text, usage=usage, tool_calls=calls)


def _pieces(request: Any, timeout_s: float) -> Any:
    answer = _answer(request)
    words = answer.content.split(" ")
    for word in words:
        yield word + " "
    if CHANCE.random() < 0.1:
        return  # cut
    yield answer


def chain(name: str = "gpt-4o-mini") -> list[Model]:
    """Return two models; what they answer is chance."""
    return [
        Model(
            name=n, provider="openai", complete=lambda request, _: _answer(request), stream=_pieces
        )
        for n in (name, "gpt-4o")
    ]


def make_tower(store: Any, *, budget_usd: float | None = None) -> Tower:
    """Return a tower over the chain."""
    return Tower(
        store=store, models=chain(), policy=POLICY, redactor=simulated_redactor(), journal="off",
        durable=False, budget_usd=budget_usd,
    )  # fmt: skip


# -- programs --------------------------------------------------------------------------------------


def program(seed: int) -> tuple[bool, float | None, list[Any]]:
    """Return whether the agent is asynchronous, its budget, and what it does."""
    dice = random.Random(seed)
    count = iter(range(1000))
    asynchronous = seed % 2 == 1
    budget = dice.choice((None, None, 0.002))
    return asynchronous, budget, _ops(dice, count, dice.randint(3, 7), 0, asynchronous)


def _ops(dice: random.Random, count: Any, n: int, depth: int, asynchronous: bool) -> list[Any]:
    # Side by side, readings are told apart by the step they are made in.
    kinds = ["model", "model", "tool", "tool", "stream", "reading" if depth < 2 else "own_step"]
    kinds += ["step", "side_by_side"] * (depth < 2)
    # Which of two threads is first after its last call, no tape knows: of tasks, the loop does.
    kinds += ["cut", "as_they_come"] * asynchronous
    return [_op(dice, count, dice.choice(kinds), depth, asynchronous) for _ in range(n)]


def _op(dice: random.Random, count: Any, kind: str, depth: int, asynchronous: bool) -> list[Any]:
    number = next(count)
    if kind in {"model", "stream"}:
        stop = dice.choice((None, None, 2)) if kind == "stream" else None
        return [kind, f"question {number} of ann{dice.randrange(5)}@example.com", stop]
    if kind in {"tool", "cut"}:
        return [kind, "fetch", f"item {number}", dice.choice((0, 1, 3)), dice.random() < 0.7]
    if kind == "reading":
        return [kind, dice.choice(("now", "random", "new_id"))]
    if kind == "own_step":
        return [
            "step",
            f"step of {number}",
            [["reading", dice.choice(("now", "random", "new_id"))]],
        ]
    if kind == "step":
        return [kind, f"step {dice.randrange(3)}", _ops(dice, count, 2, depth + 1, asynchronous)]
    branches = [_ops(dice, count, dice.randint(1, 2), depth + 2, asynchronous)
                for _ in range(dice.randint(2, 3))]  # fmt: skip
    return [kind, branches]


# -- performing them -------------------------------------------------------------------------------


class Doing:
    """An agent's state: what it noted so far is in every later prompt."""

    def __init__(self, run: Any) -> None:
        """Start with nothing."""
        self.run, self.notes, self.lock = run, [], threading.Lock()

    def note(self, what: Any) -> None:
        """Remember a result."""
        with self.lock:
            self.notes.append(str(what)[:80])

    def messages(self, text: str, seen: list[str]) -> list[dict[str, str]]:
        """Return a prompt: side by side, branches see only what was there before them."""
        return [{"role": "system", "content": "; ".join(seen[-6:])},
                {"role": "user", "content": text}]  # fmt: skip

    def reading(self, name: str) -> None:
        """Read clock, randomness or an id."""
        self.note(getattr(self.run, name)())

    def do(self, ops: list[Any], seen: list[str] | None = None) -> list[str]:
        """Do the operations; return their results."""
        out: list[str] = []
        for op in ops:
            known = [*(self.notes if seen is None else seen), *out]
            try:
                out += self.one(op, known, top=seen is None)
            except (ControlError, Flaky, NotThere) as error:
                out.append(type(error).__name__ + str(error)[:20])
            if seen is None:
                self.notes += out
                out = []
        return out

    def one(self, op: list[Any], known: list[str], *, top: bool) -> list[str]:
        """Do one operation."""
        kind, run = op[0], self.run
        if kind == "model":
            return [run.model(self.messages(op[1], known)).content]
        if kind == "stream":
            heard = []
            for piece in run.stream(self.messages(op[1], known)):
                heard.append(piece)
                if len(heard) == op[2]:
                    break
            return ["".join(heard) + str(len(heard))]
        if kind in {"tool", "cut"}:
            args = {"item": op[2], "ms": op[3]}
            return [str(run.tool(fetch, args, idempotent=op[4], name=op[1]))]
        if kind == "reading":
            return [str(getattr(run, op[1])())]
        if kind == "step":
            with run.step(op[1]):
                return self.do(op[2], known)
        with ThreadPoolExecutor(len(op[1])) as pool:
            jobs = [pool.submit(self.do, branch, known) for branch in op[1]]
            return [text for job in jobs for text in job.result()]

    async def ado(
        self, ops: list[Any], seen: list[str] | None = None, shared: list[str] | None = None
    ) -> list[str]:
        """Do the operations on an event loop; tell others of each answer when it is there."""
        out: list[str] = []
        for op in ops:
            known = [*(self.notes if seen is None else seen), *out]
            try:
                came = await self.aone(op, known)
            except ControlError as error:
                out.append(type(error).__name__ + str(error)[:20])
                continue
            except (Flaky, NotThere, TimeoutError) as error:
                came = [type(error).__name__ + str(error)[:20]]
            out += came
            if shared is not None and op[0] in CALLS:
                shared += came
            if seen is None:
                self.notes += out
                out = []
        return out

    async def aone(self, op: list[Any], known: list[str]) -> list[str]:
        """Do one operation on an event loop."""
        kind, run = op[0], self.run
        if kind == "model":
            return [(await run.amodel(self.messages(op[1], known))).content]
        if kind == "stream":
            heard = []
            stream = run.astream(self.messages(op[1], known))
            async with contextlib.aclosing(stream):
                async for piece in stream:
                    if not isinstance(piece, Response):
                        heard.append(piece)
                    if len(heard) == op[2]:
                        break
            return ["".join(heard) + str(len(heard))]
        if kind == "cut":
            args = {"item": op[2], "ms": 40}
            async with asyncio.timeout(0.015):
                return [str(await run.atool(afetch, args, idempotent=op[4], name=op[1]))]
        if kind == "tool":
            args = {"item": op[2], "ms": op[3]}
            return [str(await run.atool(afetch, args, idempotent=op[4], name=op[1]))]
        if kind == "reading":
            return [str(getattr(run, op[1])())]
        if kind == "step":
            with run.step(op[1]):
                return await self.ado(op[2], known)
        shared: list[str] = []
        jobs = [self.ado(branch, known, shared) for branch in op[1]]
        texts = await asyncio.gather(*jobs)
        # In the order in which answers came, or in that in which they were asked for.
        return shared if kind == "as_they_come" else [text for one in texts for text in one]


def agent_of(asynchronous: bool, ops: list[Any]) -> Any:
    """Return the agent that does these operations."""

    def agent(run: Any, task: Any) -> None:
        doing = Doing(run)
        doing.note(task["question"])
        doing.do(ops)
        run.finish({"notes": doing.notes})

    async def aagent(run: Any, task: Any) -> None:
        doing = Doing(run)
        doing.note(task["question"])
        await doing.ado(ops)
        run.finish({"notes": doing.notes})

    return aagent if asynchronous else agent


TASK = {"question": "What of carl@example.com and +41 44 668 18 00?"}


def record(store: Any, seed: int) -> Any:
    """Record the agent of a seed, live; return its pack."""
    asynchronous, budget, ops = program(seed)
    tower, agent = make_tower(store, budget_usd=budget), agent_of(asynchronous, ops)
    Live.allowed = True
    with tower.run(f"generated {seed}", task=TASK) as run:
        if asynchronous:
            asyncio.run(agent(run, TASK))
        else:
            agent(run, TASK)
    Live.allowed = False
    return run.pack
