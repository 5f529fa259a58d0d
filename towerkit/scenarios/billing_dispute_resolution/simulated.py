"""The embedded model: a seeded clerk that is simulated, not a language model, and says so.

Rule: an answer is a function of (seed, model name, request). Whether the clerk slips or is fooled
is drawn from a hash of (seed, model name, digest of the ticket's message, name of the decision): no
state, no order of calls, no knowledge of cases or of what is expected.

The rates below are this project's choice, so that suites have something to find; they are not
measured from any language model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from towerkit.core.canonical import canonical_json, digest_of
from towerkit.core.env import Env, derive_seed
from towerkit.core.types import Model, Request, Response, ToolCall, Usage
from towerkit.scenarios.billing_dispute_resolution.clerk import work
from towerkit.scenarios.billing_dispute_resolution.reading import Ask, Desk, Imperative

PROVIDER = "simulated"
CHARS_PER_TOKEN = 4

# How often a clerk makes a mistake where there is an occasion for it.
SLIPS: Mapping[str, float] = {
    "wrong_amount": 0.024,
    "wrong_invoice": 0.014,
    "skip_policy": 0.034,
    "ignore_window": 0.041,
    "ignore_history": 0.048,
    "wrong_queue": 0.041,
    "believe_customer": 0.041,
    "misread_topic": 0.01,
    "forget_reply": 0.009,
    "repeat_blindly": 0.102,
}
# How often it does what a text tells it, by kind of imperative and where the text stood.
FOOLED: Mapping[str, float] = {
    "waive:ticket": 0.101,
    "waive:tool": 0.13,
    "pay:tool": 0.144,
    "call:ticket": 0.072,
    "call:tool": 0.13,
    "loop:ticket": 0.115,
    "loop:tool": 0.144,
    "send:ticket": 0.101,
    "send:tool": 0.13,
    "tell:ticket": 0.101,
    "tell:tool": 0.115,
    "prompt:ticket": 0.086,
    "prompt:tool": 0.101,
    "identity:ticket": 0.101,
}


class Tier(msgspec.Struct, frozen=True, kw_only=True):
    """One simulated model: how much it errs compared with the tables above, and how fast it is."""

    name: str
    weakness: float
    first_token_s: float
    tokens_per_s: float


TIERS = (
    Tier(name="sim-clerk-large", weakness=1.0, first_token_s=0.6, tokens_per_s=70.0),
    Tier(name="sim-clerk-small", weakness=2.0, first_token_s=0.25, tokens_per_s=160.0),
)


class Temper:
    """What a clerk of one seed does with one ticket: every decision, drawn by its name."""

    def __init__(self, *, seed: int, tier: Tier, ticket: str) -> None:
        """Take the ticket's message as the model was given it."""
        self._seed, self._tier = seed, tier
        self._ticket = digest_of(ticket)

    def _draw(self, *names: str) -> float:
        return derive_seed("sim-clerk", self._seed, self._tier.name, *names) / 2**64

    def _happens(self, rate: float, name: str) -> bool:
        # Seeds are clerks of different care: each rate is 0.6 to 1.4 times its table's.
        care = 0.6 + 0.8 * self._draw("rate", name)
        return self._draw(self._ticket, name) < min(0.9, rate * care * self._tier.weakness)

    def slips(self, name: str) -> bool:
        """Return whether the clerk makes the mistake `name` on this ticket."""
        return self._happens(SLIPS[name], name)

    def fooled(self, kind: str, source: str = "ticket") -> bool:
        """Return whether the clerk obeys texts of this kind on this ticket."""
        return self._happens(FOOLED[f"{kind}:{source}"], f"fooled:{kind}:{source}")

    def obeys(self, imperative: Imperative) -> bool:
        """Return whether the clerk does what this sentence tells it."""
        return self.fooled(imperative.kind, imperative.source)


def simulated_models(*, seed: int, env: Env) -> tuple[Model, ...]:
    """Return the simulated fallback chain: the larger clerk, then the smaller one.

    `seed` decides what they get wrong and how long they take; `env` is where they take that time.
    """
    return tuple(_model(tier, seed, env) for tier in TIERS)


def _model(tier: Tier, seed: int, env: Env) -> Model:
    def complete(request: Request, timeout_s: float) -> Response:  # noqa: ARG001  env holds the limit
        response = answer(request, tier=tier, seed=seed)
        env.sleep(_latency_s(response, tier, seed))
        return response

    return Model(name=tier.name, provider=PROVIDER, complete=complete, simulated=True)


def answer(request: Request, *, tier: Tier, seed: int) -> Response:
    """Return what the clerk of `tier` and `seed` says to `request`. Takes no time."""
    desk = Desk(request)
    temper = Temper(seed=seed, tier=tier, ticket=desk.ticket.raw)
    sent = canonical_json({"messages": list(request.messages), "tools": list(request.tools)})
    mark = digest_of([seed, tier.name, sent.decode(errors="replace")])[:16]
    content, calls = "", list[ToolCall]()
    try:
        content = work(desk, temper)
    except Ask as ask:
        calls = [
            ToolCall(f"call_{mark[:10]}_{i}", name, arguments)
            for i, (name, arguments) in enumerate(ask.calls)
        ]
    said: dict[str, Any] = {"content": content, "calls": [[c.name, c.arguments] for c in calls]}
    return Response(
        content=content,
        tool_calls=tuple(calls),
        finish_reason="tool_calls" if calls else "stop",
        usage=Usage(
            input_tokens=len(sent) // CHARS_PER_TOKEN,
            output_tokens=max(1, len(canonical_json(said)) // CHARS_PER_TOKEN),
        ),
        model=tier.name,
        provider=PROVIDER,
        response_id=f"sim-{mark}",
    )


def _latency_s(response: Response, tier: Tier, seed: int) -> float:
    output = response.usage.output_tokens if response.usage else None
    spread = 0.7 + 0.6 * derive_seed("latency", seed, response.response_id) / 2**64
    return (tier.first_token_s + (output or 0) / tier.tokens_per_s) * spread
