"""Models: one function a provider's API, each returning a tier of a fallback chain.

Rule: an adapter translates and does nothing else. SDK retries are off: the guard is the one retry
owner. SDKs are imported when a model of theirs is made.

    function          a plain function                    no SDK
    openai            chat completions                    chat_completions.py
    openai_responses  OpenAI's responses                  responses.py
    anthropic         Anthropic's messages                messages.py
    gemini            Google's generateContent            generate_content.py
    cache, template, human   what stands in for a model  runtime/stand_ins.py
"""

from __future__ import annotations

from collections.abc import Callable

from towerkit.core.errors import UsageError
from towerkit.core.types import Model, Request, Response
from towerkit.runtime.models.chat_completions import openai
from towerkit.runtime.models.generate_content import gemini
from towerkit.runtime.models.messages import anthropic
from towerkit.runtime.models.responses import openai_responses
from towerkit.runtime.stand_ins import cache, human, template


def function(
    fn: Callable[[Request], Response | str], *, name: str = "function", provider: str = "local",
    simulated: bool = False,
) -> Model:  # fmt: skip
    """Return a model that is a plain function of the request; it may return text or a Response."""

    def complete(request: Request, timeout_s: float) -> Response:  # noqa: ARG001  the guard bounds it
        answer = fn(request)
        return Response(content=answer) if isinstance(answer, str) else answer

    return Model(name=name, provider=provider, complete=complete, simulated=simulated)


PROVIDERS: dict[str, Callable[..., Model]] = {
    "openai": openai, "openai-responses": openai_responses, "anthropic": anthropic,
    "gemini": gemini,
}  # fmt: skip


def parse_model(text: str) -> Model:
    """Return the model a command line names, as `openai:NAME` or `gemini:NAME@BASE_URL`.

    Raises `UsageError` listing the forms, or when the SDK or its key is missing.
    """
    provider, found, rest = text.partition(":")
    name, _, base_url = rest.partition("@")
    if not found or not name or provider not in PROVIDERS:
        forms = ", ".join(f"{known}:NAME[@BASE_URL]" for known in PROVIDERS)
        raise UsageError(f"expected a model as simulated, {forms}, got {text!r}")
    return PROVIDERS[provider](name, base_url=base_url or None)


__all__ = [
    "PROVIDERS", "anthropic", "cache", "function", "gemini", "human", "openai",
    "openai_responses", "parse_model", "template",
]  # fmt: skip
