"""The four adapters against one fault server: clients are made once, TLS contexts cost most."""

from __future__ import annotations

import asyncio

from anthropic import Anthropic, AsyncAnthropic
from google import genai
from openai import AsyncOpenAI, OpenAI

from towerkit.core.env import SystemEnv
from towerkit.faults import FaultServer, Script
from towerkit.reliability.breaker import Limits
from towerkit.reliability.policy import Policy
from towerkit.runtime import models
from towerkit.runtime.tower import Tower

FORMATS = ("openai_chat", "openai_responses", "anthropic", "gemini")
HELLO = [{"role": "user", "content": "hello"}]
# google-genai's asynchronous transport, where aiohttp is installed, warns of its own code.
SDK_WARNING = "ignore:Inheritance class AiohttpClientSession:DeprecationWarning"
KEY = "sk-secret-of-the-test"


class Adapters:
    """A fault server, a model of each adapter on it, and the event loop of their awaited twins."""

    def __init__(self, script=None):
        """Open the server; `script` matters only where its port is not open."""
        self.server = FaultServer(script or Script()).__enter__()
        self.loop = asyncio.Runner()
        url = {"api_key": KEY, "base_url": self.server.openai_base_url}
        self.clients = [OpenAI(**url), Anthropic(**{**url, "base_url": self.server.url})]
        self.aclients = [AsyncOpenAI(**url), AsyncAnthropic(**{**url, "base_url": self.server.url})]
        self.gemini = genai.Client(api_key=KEY, http_options={"base_url": self.server.url})
        (one, two), (aone, atwo) = self.clients, self.aclients
        self.models = {
            "openai_chat": models.openai("m-1", client=one, aclient=aone),
            "openai_responses": models.openai_responses("m-1", client=one, aclient=aone),
            "anthropic": models.anthropic("m-1", client=two, aclient=atwo),
            "gemini": models.gemini("m-1", client=self.gemini),
        }

    def close(self):
        """Close the pools, the loop and the server."""
        for client in (*self.clients, self.gemini):
            client.close()
        for client in self.aclients:
            self.loop.run(client.close())
        self.loop.run(self.gemini.aio.aclose())
        self.loop.close()
        self.server.close()

    def ask(self, folder, form, script, *, stream, awaited, **policy):
        """Run one call under a tower; return what came of it.

        The policy waits next to nothing between attempts.
        """
        if script.port == "open":
            self.server.play(script)
        before = self.server.hits
        options = {"attempt_timeout_s": 5.0, "backoff_cap_s": 0.001, "deadline_s": 20.0} | policy
        tower = Tower(store=folder, models=[self.models[form]], policy=Policy(**options),
                      environment=SystemEnv, breaker=Limits(min_calls=20))  # fmt: skip
        done = Outcome()
        with tower.run("x") as run:
            try:
                if awaited:
                    self.loop.run(_acall(run, stream, done))
                else:
                    _call(run, stream, done)
            except Exception as error:
                done.error = error
        done.hits, done.run = self.server.hits - before, run
        done.attempts = run.pack.frame("spans").filter(kind="attempt")
        return done


class Outcome:
    """What the agent got: pieces in order, then an answer or an error; and what was recorded."""

    def __init__(self):
        """Start with nothing."""
        self.pieces, self.answer, self.error = [], None, None


def _call(run, stream, done):
    if not stream:
        done.answer = run.model(HELLO)
        return
    items = run.stream(HELLO)
    while True:
        try:
            done.pieces.append(next(items))
        except StopIteration as end:
            done.answer = end.value
            return


async def _acall(run, stream, done):
    if not stream:
        done.answer = await run.amodel(HELLO)
        return
    async for item in run.astream(HELLO):
        if isinstance(item, str):
            done.pieces.append(item)
        else:
            done.answer = item
