"""MCP tool calls under the tower, against a server in this process, by both of its transports."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from mcp import Client, ClientSession, MCPError
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.memory import create_client_server_memory_streams
from mcp.types import ToolAnnotations
from rows import only_pack, real_tower, spans

from towerkit.adapters.mcp import guard_session
from towerkit.core.errors import AttemptTimeout, CallRefused, UsageError
from towerkit.reliability.breaker import Limits
from towerkit.reliability.policy import Policy

QUICK = Policy(backoff_cap_s=0.001)


class Server:
    """A server whose tools fail a number of times, and the calls and `_meta` it got."""

    def __init__(self, *, fails=0, code=None):
        """Fail `fails` times: by an MCP error where `code` is given, else by `isError`."""
        self.hits, self.metas, self.late_s = 0, [], 5.0
        self._fails, self._code = fails, code
        self.mcp = MCPServer("desk")
        self.mcp.tool(annotations=ToolAnnotations(idempotent_hint=True))(self.look_up)
        self.mcp.tool()(self.wait)

    async def look_up(self, order: int, ctx: Context) -> str:
        """Look an order up."""
        self.hits += 1
        self.metas.append(dict(ctx.request_context.meta or {}))
        if self.hits <= self._fails:
            if self._code is not None:
                raise MCPError(code=self._code, message="it broke")
            raise ToolError("it broke")
        return f"order {order} is on its way"

    async def wait(self) -> str:
        """Answer late."""
        self.hits += 1
        await asyncio.sleep(self.late_s)
        return "late"


@contextlib.asynccontextmanager
async def by_client(server):
    """Open the high-level client."""
    async with Client(server.mcp) as client:
        yield client


@contextlib.asynccontextmanager
async def by_session(server):
    """Open a plain session over streams, with the handshake of older protocols."""
    low = server.mcp._lowlevel_server
    async with create_client_server_memory_streams() as (ours, theirs):
        running = asyncio.create_task(low.run(*theirs, low.create_initialization_options()))
        try:
            async with ClientSession(*ours) as session:
                await session.initialize()
                yield session
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


WAYS = pytest.mark.parametrize("way", [by_client, by_session])


def guarded(tower, server, use, *, way=by_client, **options):
    """Return what `use(session)` returns over a guarded session."""

    async def main():
        async with way(server) as session:
            try:
                return await use(guard_session(tower, session, server="desk", **options)), None
            except Exception as error:  # out of here it would come wrapped by the task group
                return None, error

    result, error = asyncio.run(main())
    if error is not None:
        raise error
    return result


def look_up(session):
    """Call the tool once."""
    return session.call_tool("look_up", {"order": 7})


@WAYS
def test_a_call_is_guarded_and_carries_its_trace(tmp_path, way):
    """Result unchanged; the server can find the very attempt by its traceparent."""
    tower, server = real_tower(tmp_path), Server()

    async def use(session):
        assert [t.name for t in (await session.list_tools()).tools] == ["look_up", "wait"]
        with tower.run("orders") as run:
            result = await session.call_tool("look_up", {"order": 7}, meta={"mine": 1})
        return run.pack, result

    pack, result = guarded(tower, server, use, way=way)
    assert result.content[0].text == "order 7 is on its way"
    (attempt,) = spans(pack, "attempt")
    trace = f"00-{pack.run_id.replace('-', '')}-{attempt['span_id']}-01"
    assert server.metas[0]["traceparent"] == trace
    assert server.metas[0]["mine"] == 1
    shown = pack.content(attempt["request_digest"])
    assert shown["arguments"] == {"server": "desk", "arguments": {"order": 7}}
    assert pack.content(attempt["response_digest"])["result"]["content"][0]["text"] == (
        "order 7 is on its way"
    )


@WAYS
@pytest.mark.parametrize(("idempotent", "hits"), [((), 1), ({"look_up"}, 2)])
def test_an_is_error_result_is_a_failure_to_the_tower_and_a_result_to_the_agent(
    tmp_path, way, idempotent, hits
):
    """Run again only where that is harmless; the last result comes back as it is."""
    tower, server = real_tower(tmp_path, policy=QUICK), Server(fails=9)
    result = guarded(tower, server, look_up, way=way, idempotent=idempotent)
    assert result.is_error
    assert "it broke" in result.content[0].text
    assert server.hits == hits
    pack = only_pack(tower)
    attempts = spans(pack, "attempt")
    assert [(a["error_class"], a["error_type"]) for a in attempts] == [
        ("tool_failed", "isError")
    ] * hits
    assert "it broke" in attempts[0]["error_message"]
    assert pack.manifest["status"] == "completed"


@pytest.mark.parametrize(
    "call", [{"name": "nope"}, {"name": "look_up", "arguments": {"order": "x"}}]
)
def test_a_models_mistake_is_not_the_tools_failure(tmp_path, call):
    """An unknown tool and wrong arguments have classes of their own and are not retried."""
    tower = real_tower(tmp_path, policy=QUICK)

    async def use(session):
        return await session.call_tool(**call)

    with contextlib.suppress(MCPError):
        guarded(tower, Server(), use, idempotent={"nope", "look_up"})
    (attempt,) = spans(only_pack(tower), "attempt")
    assert attempt["error_class"] in {"tool_unknown", "tool_args_invalid"}


@pytest.mark.parametrize(
    ("code", "idempotent", "hits", "name"),
    [
        (-32603, {"look_up"}, 2, "tool_failed"), (-32603, (), 1, "tool_failed"),
        (-32000, {"look_up"}, 2, "mcp_transport"), (-32000, (), 1, "mcp_transport"),
        (-32600, {"look_up"}, 1, "mcp_protocol"), (-32042, {"look_up"}, 1, "permission_needed"),
    ],
)  # fmt: skip
def test_an_mcp_error_is_classified_by_its_code(tmp_path, code, idempotent, hits, name):
    """An internal error is tried once more where that is harmless; the original comes back."""
    tower, server = real_tower(tmp_path, policy=QUICK), Server(fails=9, code=code)
    with pytest.raises(MCPError, match="it broke") as caught:
        guarded(tower, server, look_up, way=by_session, idempotent=idempotent)
    assert caught.value.error.code == code
    assert caught.value.tower.error_class == name
    assert server.hits == hits
    assert [a["error_class"] for a in spans(only_pack(tower), "attempt")] == [name] * hits


def test_a_failure_that_passes_is_not_seen_by_the_agent(tmp_path):
    """An idempotent tool fails once and then answers."""
    tower, server = real_tower(tmp_path, policy=QUICK), Server(fails=1, code=-32603)
    result = guarded(tower, server, look_up, idempotent={"look_up"})
    assert not result.is_error
    assert server.hits == 2


@pytest.mark.parametrize(("trust", "hits"), [(False, 1), (True, 2)])
def test_what_a_server_says_of_its_tools_is_believed_only_when_you_say_so(tmp_path, trust, hits):
    """The idempotent hint of list_tools counts with trust_hints=True alone."""
    tower, server = real_tower(tmp_path, policy=QUICK), Server(fails=1)

    async def use(session):
        await session.list_tools()
        return await look_up(session)

    guarded(tower, server, use, trust_hints=trust)
    assert server.hits == hits


@WAYS
def test_a_time_out_leaves_the_outcome_unknown(tmp_path, way):
    """The tower's bound, and the session's own, whose exception is kept; neither is retried."""
    tower, server = real_tower(tmp_path, policy=QUICK), Server()
    with pytest.raises(AttemptTimeout, match="unknown") as caught:
        guarded(tower, server, lambda s: s.call_tool("wait"), way=way, timeout_s=0.05)
    assert caught.value.tower.decision == "not_idempotent"
    with pytest.raises(MCPError) as own:
        guarded(tower, server, lambda s: s.call_tool("wait", None, 0.05), way=way)
    assert own.value.tower.error_class == "tool_timeout"
    assert server.hits == 2


def test_a_call_may_take_as_long_as_it_was_given(tmp_path):
    """`read_timeout_seconds` of a call holds instead of the policy's bound, longer ones too."""
    tower, server = real_tower(tmp_path, policy=Policy(attempt_timeout_s=0.02)), Server()
    server.late_s = 0.1
    result = guarded(tower, server, lambda s: s.call_tool("wait", None, 3.0))
    assert result.content[0].text == "late"


def test_a_server_that_is_down_is_left_alone_and_one_bad_tool_is_not_the_server(tmp_path):
    """Transport failures open mcp:SERVER, which stops its other tools; isError does not."""
    limits = Limits(window=2, min_calls=2)
    tower = real_tower(tmp_path, policy=QUICK, breaker=limits)
    down = Server(fails=99, code=-32000)

    async def use(session):
        for _ in range(2):
            with pytest.raises(MCPError):
                await look_up(session)
        with pytest.raises(CallRefused, match="MCP server desk") as refused:
            await session.call_tool("wait")
        return refused.value

    refused = guarded(tower, down, use, way=by_session)
    assert refused.tower.error_class == "circuit_open"
    assert down.hits == 2

    tower = real_tower(tmp_path / "b", policy=QUICK, breaker=limits)
    bad = Server(fails=99)

    async def spoil(session):
        for _ in range(2):
            await look_up(session)
        with pytest.raises(CallRefused) as refused:
            await look_up(session)
        assert "MCP server" not in str(refused.value)
        with pytest.raises(AttemptTimeout):
            await session.call_tool("wait")

    guarded(tower, bad, spoil, way=by_session, timeout_s=0.05)


def test_cancelling_the_agent_gives_both_permits_back(tmp_path):
    """A cancelled call counts neither for the tool nor for the server, and its span says so."""
    tower, server = real_tower(tmp_path), Server()

    async def use(session):
        task = asyncio.create_task(session.call_tool("wait"))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    guarded(tower, server, use, way=by_session)
    (attempt,) = spans(only_pack(tower), "attempt")
    assert attempt["status"] == "cancelled"
    for key in ("mcp:desk", "tool:desk/wait"):
        assert not tower.breaker(key)._window


def test_what_is_no_session_is_refused(tmp_path):
    """One sentence, at once; names given as one text as well."""
    with pytest.raises(UsageError, match=r"expected an mcp\.ClientSession"):
        guard_session(real_tower(tmp_path), object(), server="desk")
    with pytest.raises(UsageError, match="a set of names"):
        guard_session(real_tower(tmp_path), Client(Server().mcp), server="x", idempotent="look_up")


def test_a_client_may_be_opened_through_the_guard(tmp_path):
    """`async with guard_session(…)` opens and closes what it wraps."""
    tower, server = real_tower(tmp_path), Server()

    async def main():
        async with guard_session(tower, Client(server.mcp), server="desk") as client:
            return await look_up(client), client.protocol_version

    result, version = asyncio.run(main())
    assert result.content[0].text.startswith("order 7")
    assert version
