"""Where an agent is run again: no network, no key, no clock but the tape's, no run but this one.

Rule: while an agent is on stage, nothing of it reaches the world through this process. Every tower
gives it the run that is being replayed, every connection is refused with a sentence that says why.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from towerkit.core.errors import ReplayDiverged, UsageError
from towerkit.replay.agents import Agent
from towerkit.replay.turns import ReplayLoop, Turns
from towerkit.runtime.current import made_by
from towerkit.runtime.run import Run
from towerkit.runtime.tower import Tower

KEYS = (
    "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY", "MISTRAL_API_KEY",
    "GROQ_API_KEY", "AZURE_OPENAI_API_KEY", "OPENROUTER_API_KEY",
)  # fmt: skip
"""Keys that SDKs insist on before they make a client; a replay has them name themselves."""
NO_KEY = "a-replay-needs-no-key"


@contextmanager
def without_keys() -> Iterator[None]:
    """Let SDKs make clients without a key, and only where none is set."""
    absent = [name for name in KEYS if not os.environ.get(name)]
    os.environ.update(dict.fromkeys(absent, NO_KEY))
    try:
        yield
    finally:
        for name in absent:
            if os.environ.get(name) == NO_KEY:
                del os.environ[name]


@contextmanager
def offline() -> Iterator[None]:
    """Refuse every connection and every look-up of a host in this process."""

    def refuse(*where: object, **_: object) -> Any:
        # Of a socket's method the first is the socket; an address may be personal, a port is not.
        raise ReplayDiverged(
            "a replay opens no connection: what the agent wants from "
            f"{_shown(where[-1] if where else '')} is not under the tower, so the tape has not got "
            "it; give it tower.http_client(), or make it a tool"
        )

    def connect(sock: socket.socket, address: Any) -> None:
        if sock.family in {socket.AF_INET, socket.AF_INET6}:
            refuse(address)
        _CONNECT(sock, address)

    def connect_ex(sock: socket.socket, address: Any) -> int:
        if sock.family in {socket.AF_INET, socket.AF_INET6}:
            refuse(address)
        return _CONNECT_EX(sock, address)

    with ExitStack() as stack:
        for owner, name, stand_in in (
            (socket.socket, "connect", connect), (socket.socket, "connect_ex", connect_ex),
            (socket, "getaddrinfo", refuse),
        ):  # fmt: skip
            stack.enter_context(_replaced(owner, name, stand_in))
        yield


_CONNECT, _CONNECT_EX = socket.socket.connect, socket.socket.connect_ex


def _shown(where: object) -> str:
    return f"port {where[1]}" if isinstance(where, tuple) and len(where) > 1 else "there"


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    own = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


@contextmanager
def recorded_loops(turns: Turns) -> Iterator[None]:
    """Make event loops that run on the recorded clock."""
    with _replaced(asyncio.events, "new_event_loop", lambda: ReplayLoop(turns)):
        yield


class Stage:
    """One performance: an agent, and the run it gets. `run` is there once the agent has opened it.

    `made(tower, name, options)` makes the run; `tower` is the agent's own, or the one given here.
    """

    def __init__(
        self, tower: Tower, name: str, *, made: Callable[[Tower, str, Mapping[str, Any]], Run],
        turns: Turns | None = None,
    ) -> None:  # fmt: skip
        """Prepare; `turns` None leaves event loops alone."""
        self._tower, self._name, self._made, self._turns = tower, name, made, turns
        self.run: Run | None = None
        self.problem: str | None = None

    def _open(self, tower: Tower, name: str, options: Mapping[str, Any]) -> Run:
        cleaned = tower.redactor.name(name)
        if self.run is not None or cleaned != self._name:
            self.problem = self.problem or (
                f"the agent opens a run {cleaned!r}: the recording is of one run {self._name!r}"
            )
            raise ReplayDiverged(self.problem)
        self.run = self._made(tower, name, options)
        return self.run

    def perform(self, agent: Agent, task: Any) -> BaseException | None:
        """Have the agent handle the task; return what it ended with, if with an error.

        What interrupts the process itself is raised.
        """
        try:
            with made_by(self._open):
                if agent.takes_run:
                    with self._tower.run(self._name, task=task) as run:
                        self._finish(agent(run, task))
                else:
                    self._finish(agent(None, task))
        except Exception as error:
            if isinstance(error, UsageError) and self.run is None:
                raise
            return error
        except BaseException as error:
            if not getattr(error, "from_tape", False) and not isinstance(
                error, asyncio.CancelledError
            ):
                raise
            return error
        return None

    def _finish(self, result: Any) -> None:
        """Await what an asynchronous agent has returned."""
        if not asyncio.iscoroutine(result):
            return

        async def main() -> None:
            if self._turns is not None:
                self._turns.main = asyncio.current_task()
            await result

        if asyncio._get_running_loop() is None:  # noqa: SLF001  None instead of an exception
            asyncio.run(main())
            return
        # In a notebook a loop is running in this thread: the agent gets one in a thread of its own.
        context, ended = contextvars.copy_context(), list[BaseException]()

        def work() -> None:
            try:
                context.run(asyncio.run, main())
            except BaseException as error:  # noqa: BLE001  carried over
                ended.append(error)

        thread = threading.Thread(target=work, name="towerkit-replay")
        thread.start()
        thread.join()
        if ended:
            raise ended[0]
