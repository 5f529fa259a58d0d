"""The real SDKs against a `FaultServer`, and what an agent sees of each answer in one phrase."""

from __future__ import annotations

import anthropic
import openai
from google import genai
from google.genai import types

from towerkit.core.types import ToolCall
from towerkit.faults import (
    CleanEnd,
    Cut,
    HtmlPage,
    MalformedJson,
    Refuse,
    Reply,
    Script,
    SseError,
    Stall,
    Status,
)

FORMATS = ("openai_chat", "openai_responses", "anthropic", "gemini")
TIMEOUT_S = 0.2
USER = [{"role": "user", "content": "Where is order 7?"}]
LONG = Reply(text="one two three four five six")
CALL = ToolCall("call_1", "look_up", {"order": 7})


class Sdks:
    """One client an SDK, made once: building their TLS contexts is most of what a test costs."""

    def __init__(self):
        """No SDK retries, and a key that must never be kept."""
        options = {"api_key": "sk-secret-of-the-test", "max_retries": 0, "timeout": TIMEOUT_S}
        self.openai = openai.OpenAI(base_url="http://127.0.0.1:9/v1", **options)
        self.anthropic = anthropic.Anthropic(base_url="http://127.0.0.1:9", **options)
        self.gemini = genai.Client(api_key="sk-secret-of-the-test")

    def close(self):
        """Close the pools."""
        for client in (self.openai, self.anthropic, self.gemini):
            client.close()

    def ask(self, server, wire, *, stream=False):
        """Return what the SDK returns: an answer, or the list of what its stream yielded."""
        answer = getattr(self, f"_{wire}")(server, stream)
        return list(answer) if stream else answer

    def _openai_chat(self, server, stream):
        client = self.openai.with_options(base_url=server.openai_base_url)
        more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        return client.chat.completions.create(model="m-1", messages=USER, **more)

    def _openai_responses(self, server, stream):
        client = self.openai.with_options(base_url=server.openai_base_url)
        return client.responses.create(model="m-1", input="Where is order 7?", stream=stream)

    def _anthropic(self, server, stream):
        client = self.anthropic.with_options(base_url=server.anthropic_base_url)
        return client.messages.create(model="m-1", messages=USER, max_tokens=64, stream=stream)

    def _gemini(self, server, stream):
        http = types.HttpOptions(base_url=server.gemini_base_url, timeout=round(TIMEOUT_S * 1000))
        config = types.GenerateContentConfig(
            http_options=http,
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        )
        models = self.gemini.models
        ask = models.generate_content_stream if stream else models.generate_content
        return ask(model="m-1", contents="Where is order 7?", config=config)


def named(error):
    """Return the SDK's exception and the cause that says most: `package.Class < package.Class`."""
    names = [f"{type(e).__module__.partition('.')[0]}.{type(e).__name__}"
             for e in (error, error.__cause__) if e is not None]  # fmt: skip
    # Every SDK here stands on httpx2, which stands on httpcore2: the first of the two is enough.
    return " < ".join(n for n in names if not n.startswith(("httpcore2.", "h11.")))


def seen(sdks, server, wire, *, stream):
    """Return in one phrase what an agent sees: an exception, or what came without one."""
    try:
        answer = sdks.ask(server, wire, stream=stream)
    except Exception as error:
        status = getattr(error, "status_code", None) or getattr(error, "code", None)
        return f"{named(error)} [{status}]" if isinstance(status, int) else named(error)
    if isinstance(answer, str):
        return "nothing: a str is returned"
    if not stream:
        return "nothing" if _finish(wire, answer) else "nothing: an empty answer is returned"
    if not answer:
        return "nothing: an empty stream"
    last = answer[-1]
    if getattr(last, "type", "") == "error":
        return "nothing: an error event is yielded"
    return "nothing" if _ended(wire, answer) else "nothing: the stream stops early"


def _finish(wire, answer):
    if wire == "openai_chat":
        return answer.choices and answer.choices[0].finish_reason
    if wire == "gemini":
        return answer.candidates and answer.candidates[0].finish_reason
    return answer.stop_reason if wire == "anthropic" else answer.status


def _ended(wire, events):
    if wire == "openai_chat":
        return any(c.finish_reason for e in events for c in e.choices)
    if wire == "gemini":
        return any(c.finish_reason for e in events for c in e.candidates or ())
    return events[-1].type in {
        "message_stop", "response.completed", "response.failed", "response.incomplete",
    }  # fmt: skip


FAULTS = {
    "Status(429)": Status(code=429),
    "Status(500)": Status(code=500),
    "Cut(3)": LONG.with_(Cut(at_chunk=3)),
    "Cut(3, reset)": LONG.with_(Cut(at_chunk=3, reset=True)),
    "CleanEnd(3)": LONG.with_(CleanEnd(at_chunk=3)),
    "CleanEnd(0)": LONG.with_(CleanEnd(at_chunk=0)),
    "Stall()": LONG.with_(Stall()),
    "Stall(3)": LONG.with_(Stall(at_chunk=3)),
    "SseError(3)": LONG.with_(SseError(at_chunk=3)),
    "MalformedJson": MalformedJson(),
    "HtmlPage": HtmlPage(),
    "Refuse": Refuse(),
    'port="refused"': Script(port="refused"),
    'port="silent"': Script(port="silent"),
}
