"""Agents on the real SDKs, unchanged between recording and replay."""

from __future__ import annotations

import asyncio
import os

import anthropic
import openai

from towerkit.core.errors import BudgetExceeded
from towerkit.reliability.policy import Policy
from towerkit.runtime.tower import Tower


def look_up(order: int) -> dict:
    """Return an order."""
    return {"order": order, "email": "ann@example.com"}


class Desk:
    """An agent as people write them: clients made once, from what the environment says."""

    def __init__(self, store, *, provider: str, budget_usd: float | None = None) -> None:
        """Make the tower and, on first use, the clients."""
        self.tower = Tower(store=store, budget_usd=budget_usd, policy=Policy(backoff_cap_s=0.001))
        self.provider = provider

    def openai(self, task):
        """Ask twice, with a tool in between."""
        http = self.tower.http_client(provider=self.provider)
        client = openai.OpenAI(
            base_url=os.environ["DESK_URL"] + "/v1", http_client=http, max_retries=0
        )
        with client, self.tower.run("desk", task=task) as run:
            first = client.chat.completions.create(
                model="gpt-4o-mini", messages=[{"role": "user", "content": task["question"]}]
            )
            found = run.tool(look_up, {"order": 7}, idempotent=True)
            said = f"{first.choices[0].message.content} {found}"
            with client.chat.completions.create(
                model="gpt-4o-mini",
                messages=[{"role": "user", "content": said}],
                stream=True,
                stream_options={"include_usage": True},
            ) as stream:
                parts = [c.choices[0].delta.content or "" for c in stream if c.choices]
            run.finish({"answer": "".join(parts), "pieces": len(parts)})

    def responses(self, task):
        """Ask the other API of OpenAI, and stop reading in the middle of a stream."""
        http = self.tower.http_client(provider=self.provider)
        client = openai.OpenAI(
            base_url=os.environ["DESK_URL"] + "/v1", http_client=http, max_retries=0
        )
        with client, self.tower.run("desk", task=task) as run:
            whole = client.responses.create(model="gpt-4o-mini", input=task["question"])
            with client.responses.create(
                model="gpt-4o-mini", input=whole.output_text, stream=True
            ) as stream:
                for event in stream:
                    if event.type == "response.output_text.delta":
                        break
            run.finish({"answer": whole.output_text, "heard": event.delta})

    async def anthropic(self, task):
        """Ask twice at once, then stream; asyncio."""
        http = self.tower.ahttp_client(provider=self.provider)
        client = anthropic.AsyncAnthropic(
            base_url=os.environ["DESK_URL"], http_client=http, max_retries=0
        )
        ask = {"model": "claude-haiku-4-5", "max_tokens": 64}
        with self.tower.run("desk", task=task) as run:
            answers = await asyncio.gather(*(
                client.messages.create(
                    messages=[{"role": "user", "content": f"{task['question']} {i}"}], **ask
                )
                for i in range(2)
            ))  # fmt: skip
            said = " and ".join(a.content[0].text for a in answers)
            async with client.messages.stream(
                messages=[{"role": "user", "content": said}], **ask
            ) as stream:
                text = "".join([part async for part in stream.text_stream])
            run.finish({"answer": text})
        await client.close()

    def failing(self, task):
        """Meet an error of the SDK's own, and a budget."""
        http = self.tower.http_client(provider=self.provider)
        client = openai.OpenAI(
            base_url=os.environ["DESK_URL"] + "/v1", http_client=http, max_retries=0
        )
        seen = []
        with client, self.tower.run("desk", task=task) as run:
            for i in range(3):
                try:
                    client.chat.completions.create(
                        model="gpt-4o-mini", max_tokens=20 if i < 2 else 100_000_000,
                        messages=[{"role": "user", "content": f"{i} {task['question']}"}],
                    )  # fmt: skip
                except openai.APIStatusError as error:
                    seen.append(f"{type(error).__name__} {error.status_code}")
                except openai.APIConnectionError as error:
                    seen.append(type(error.__cause__).__name__)
                except BudgetExceeded as error:
                    seen.append(type(error).__name__)
            run.finish({"seen": seen})
