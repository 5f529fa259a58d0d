"""The HTTP seam with bare clients: bytes, streams, cancellation, secrets, other services."""

# ruff: noqa: SIM117  nested blocks show what outlives what: server, client, run

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import io
import re
import threading
from pathlib import Path

import httpx
import httpx2
import openai
import pytest

from towerkit.core.errors import BudgetExceeded, DeadlineExceeded, UsageError
from towerkit.faults import CleanEnd, Cut, Delay, FaultServer, HtmlPage, Reply, Stall, Status
from towerkit.reliability.breaker import Limits
from towerkit.reliability.policy import Policy
from towerkit.runtime.tower import Tower

TEXT = "It was sent on Monday and arrives on Thursday."
BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 50}
STREAM = BODY | {"stream": True, "stream_options": {"include_usage": True}}
LIBRARIES = [httpx, httpx2]


def make(tmp_path, *, budget_usd=None, breaker=None, **policy):
    limits = {"attempt_timeout_s": 2.0, "backoff_cap_s": 0.001} | policy
    return Tower(
        store=tmp_path, policy=Policy(**limits), budget_usd=budget_usd,
        breaker=breaker or Limits(min_calls=20),
    )  # fmt: skip


def over(tower, handler, *, lib=httpx2, **options):
    """Return a client whose network is a function."""
    inner = lib.MockTransport(handler)
    return lib.Client(transport=tower.http_transport(inner, **options))


def attempts(run):
    return run.pack.frame("spans").filter(kind="attempt").sort("seq")


def packs(tower):
    return [pack.folder / "manifest.json" for pack in tower.store.packs()]


# -- bytes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lib", LIBRARIES)
@pytest.mark.parametrize("body", [BODY, STREAM])
def test_chunks_and_headers_are_those_of_the_network(tmp_path, lib, body):
    """A stream's chunks keep their boundaries, which the tape knows; an answer its bytes."""
    tower = make(tmp_path)
    seen = []
    step = Reply(text=TEXT).with_(Delay(between_chunks_s=0.01))
    for client in (tower.http_client(library=lib.__name__), lib.Client()):
        with FaultServer(default=step) as server, client, tower.run("x") as run:
            url = f"{server.openai_base_url}/chat/completions"
            with client.stream("POST", url, json=body) as response:
                assert isinstance(response, lib.Response)
                chunks = list(response.iter_raw())
            headers = {k: v for k, v in response.headers.items() if k != "date"}
            seen.append((response.status_code, headers, b"".join(chunks)))
        if len(seen) == 1:
            row = run.pack.frame("inputs").filter(kind="model").to_dicts()[0]
            lengths = str([len(c) for c in chunks]).replace(" ", "")
            assert row["chunks"] == (lengths if body is STREAM else "[]")
            assert len(chunks) > 3 or body is BODY
    assert seen[0] == seen[1]


def test_compressed_answers_are_handed_on_compressed_and_read_on_a_copy(tmp_path):
    """The wire has gzip, the agent its own decoding, the span the usage."""
    tower = make(tmp_path)
    plain = b'{"model":"m","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}'
    wire = gzip.compress(plain)
    headers = {"content-encoding": "gzip", "content-type": "application/json"}

    def handler(request):
        return httpx2.Response(200, headers=headers, stream=httpx2.ByteStream(wire))

    with over(tower, handler) as client, tower.run("x") as run:
        url = "http://models.test/v1/chat/completions"
        with client.stream("POST", url, json=BODY) as response:
            assert b"".join(response.iter_raw()) == wire
        assert client.post(url, json=BODY).content == plain
    assert attempts(run)["gen_ai_usage_input_tokens"].to_list() == [3, 3]


BODIES = [
    {"content": b"\x00\xff\x00 binary"},
    {"files": {"file": ("a.bin", b"\x00" * 100)}, "data": {"model": "whisper-1"}},
    {"content": "not json {"},
    {"data": {"form": "field"}},
    {"content": iter([b"a", b"b"])},
]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/messages", "/upload"])
def test_bodies_of_any_kind_pass_unharmed(tmp_path, body, path):
    """What is not JSON is sent as it is and comes back as it is."""
    body = {k: iter([b"a", b"b"]) if not isinstance(v, (bytes, str, dict)) else v
            for k, v in body.items()}  # fmt: skip
    got = []

    def handler(request):
        got.append(request.read())
        return httpx2.Response(200, content=b"\x00\xffanswer")

    tower = make(tmp_path)
    with over(tower, handler) as client, tower.run("x") as run:
        response = client.post("http://service.test" + path, **body)
    assert response.content == b"\x00\xffanswer"
    assert len(got) == 1
    assert got[0]
    model = path.endswith("transcriptions") and "files" in body
    assert attempts(run)["gen_ai_request_model"].to_list() == ["whisper-1" if model else None]


def test_a_large_download_is_not_held(tmp_path):
    """Another service's long answer is handed on as it comes: its head before its end."""
    state = []

    class Slow(httpx2.SyncByteStream):
        def __iter__(self):
            for i in range(3):
                state.append(i)
                yield b"x" * 1_000_000

    def handler(request):
        return httpx2.Response(200, headers={"content-length": "3000000"}, stream=Slow())

    tower = make(tmp_path)
    with over(tower, handler) as client, tower.run("x") as run:
        with client.stream("GET", "http://files.test/big") as response:
            assert state == []
            assert sum(map(len, response.iter_raw())) == 3_000_000
    assert attempts(run)["status"].to_list() == ["ok"]


# -- other services --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "headers", "hits"),
    [("GET", {}, 2), ("PUT", {}, 2), ("DELETE", {}, 2), ("POST", {}, 1), ("PATCH", {}, 1),
     ("POST", {"idempotency-key": "k1"}, 2)],
)  # fmt: skip
@pytest.mark.parametrize("status", [500, 503, 429, None])
def test_only_what_may_run_twice_is_sent_twice(tmp_path, method, headers, hits, status):
    """A POST to another service is never repeated; the agent gets the answer, or its exception."""
    got = []

    def handler(request):
        got.append(request)
        if status is None:
            raise httpx2.ReadError("cut")
        return httpx2.Response(status, text="no")

    tower = make(tmp_path)
    with over(tower, handler) as client, tower.run("x") as run:
        if status is None:
            with pytest.raises(httpx2.ReadError) as caught:
                client.request(method, "http://api.test/orders/7", headers=headers)
            assert caught.value.tower.error_class == "tool_failed"
        else:
            response = client.request(method, "http://api.test/orders/7", headers=headers)
            assert (response.status_code, response.text) == (status, "no")
            assert response.headers["x-should-retry"] == "false"
    most = 3 if status == 429 and hits > 1 else hits
    assert len(got) == attempts(run).height == most
    assert set(attempts(run)["gen_ai_tool_name"]) == {"api.test"}


def test_an_answer_of_another_service_is_an_answer(tmp_path):
    """A 404 is no failure there, and a poll that is told the same five times is no loop."""
    tower = make(tmp_path)
    with over(tower, lambda _: httpx2.Response(404, text="not yet")) as client:
        with tower.run("x") as run:
            for _ in range(5):
                assert client.get("http://api.test/jobs/1").status_code == 404
    assert attempts(run)["status"].to_list() == ["ok"] * 5
    assert '"http.response.status_code":404' in attempts(run)["attributes"][0]


def test_a_mail_service_with_messages_is_no_model(tmp_path):
    """`POST …/messages` without a model is sent once, however it fails."""
    got = []

    def handler(request):
        got.append(1)
        return httpx2.Response(500)

    tower = make(tmp_path)
    with over(tower, handler) as client, tower.run("x"):
        client.post("http://mail.test/v1/messages", json={"to": "ann", "text": "hello"})
    assert got == [1]


# -- controls --------------------------------------------------------------------------------------


def test_a_budget_stops_the_run_with_the_towers_own_exception(tmp_path):
    """Nothing is sent, and no SDK takes it for a transport error."""
    tower = make(tmp_path, budget_usd=0.000001)
    with FaultServer() as server, tower.http_client(provider="openai") as http:
        client = openai.OpenAI(base_url=server.openai_base_url, api_key="k", http_client=http)
        with tower.run("x"), pytest.raises(BudgetExceeded):
            client.chat.completions.create(**BODY)
        assert server.hits == 0


def test_usage_is_priced_and_charged_to_the_budget(tmp_path):
    """12 tokens in and 5 out of gpt-4o, at the price book's rate."""
    tower = make(tmp_path, budget_usd=1.0)
    with FaultServer() as server, tower.http_client(provider="openai") as client:
        with tower.run("x") as run:
            client.post(f"{server.openai_base_url}/chat/completions", json=BODY)
    cost = run.pack.frame("costs").to_dicts()[0]
    assert cost["cost_nanousd"] == 12 * 2500 + 5 * 10000 == run.ledger.spent
    assert (cost["provider"], cost["model"], cost["estimated"]) == ("openai", "gpt-4o", False)


def test_an_open_breaker_is_a_connect_error(tmp_path, monkeypatch):
    """The SDK raises what it raises when nobody is there; the server is not asked."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    tower = make(tmp_path, breaker=Limits(min_calls=2))
    with FaultServer(default=Status(code=500)) as server, tower.http_client() as http:
        client = openai.OpenAI(base_url=server.openai_base_url, api_key="k", http_client=http)
        with tower.run("x"), pytest.raises(openai.InternalServerError):
            client.chat.completions.create(**BODY)
        hits = server.hits
        with tower.run("x") as run, pytest.raises(openai.APIConnectionError) as caught:
            client.chat.completions.create(**BODY)
        assert server.hits == hits
    assert caught.value.__cause__.tower.error_class == "circuit_open"
    assert run.pack.manifest["status"] == "completed"


@pytest.mark.parametrize("timeout", [None, 0.2])
def test_the_shorter_time_out_holds(tmp_path, timeout):
    """The policy's, as the library's own ReadTimeout, or the client's where that is shorter."""
    tower = make(tmp_path, attempt_timeout_s=0.2 if timeout is None else 60.0)
    with FaultServer(default=Reply().with_(Stall())) as server:
        with tower.http_client(timeout=timeout) as client, tower.run("x") as run:
            with pytest.raises(httpx2.ReadTimeout) as caught:
                client.post(f"{server.openai_base_url}/chat/completions", json=BODY)
        hits = server.hits
    assert caught.value.tower.error_class == "timeout_read"
    assert hits == attempts(run).height == 2
    assert run.pack.manifest["duration_ns"] < 3e9


def test_a_drip_does_not_outlast_the_deadline(tmp_path):
    """Each read is in time, the whole is not: the deadline ends the stream, exactly."""
    tower = make(tmp_path, deadline_s=0.5)
    step = Reply(text=TEXT * 20).with_(Delay(between_chunks_s=0.05))
    with FaultServer(default=step) as server, tower.http_client() as client:
        with tower.run("x") as run, pytest.raises(DeadlineExceeded):
            with client.stream(
                "POST", f"{server.openai_base_url}/chat/completions", json=STREAM
            ) as response:
                list(response.iter_raw())
    assert run.pack.manifest["duration_ns"] < 0.9e9
    assert attempts(run)["error_class"].to_list() == ["timeout_total"]


def test_a_stall_does_not_outlast_the_deadline(tmp_path):
    """The read began in time and would end too late: it is cut at the deadline, not after it."""
    tower = make(tmp_path, deadline_s=0.6)
    step = Reply(text=TEXT).with_(Delay(before_headers_s=0.3), Stall(at_chunk=2))
    with FaultServer(default=step) as server, tower.http_client() as client:
        url = f"{server.openai_base_url}/chat/completions"
        with tower.run("x") as run, pytest.raises(DeadlineExceeded):
            with client.stream("POST", url, json=STREAM) as response:
                list(response.iter_raw())
    assert 0.5e9 < run.pack.manifest["duration_ns"] < 0.8e9


# -- streams ---------------------------------------------------------------------------------------


def test_streams_that_end_early_end_quietly_where_that_is_asked_for(tmp_path):
    """`strict_streams=False` gives what the bare client gives; the call has failed all the same."""
    tower = make(tmp_path)
    step = Reply(text=TEXT).with_(CleanEnd(at_chunk=3))
    with FaultServer(default=step) as server:
        url = f"{server.openai_base_url}/chat/completions"
        with tower.http_client(strict_streams=False) as client, tower.run("x") as run:
            assert client.post(url, json=STREAM).text.count("data: ") == 3
        with tower.http_client() as client, tower.run("x") as strict:
            with pytest.raises(httpx2.RemoteProtocolError, match="terminal event") as caught:
                client.post(url, json=STREAM)
    assert caught.value.error_class == "stream_truncated"
    assert caught.value.tower.decision == "delivered"
    for one in (run, strict):
        assert attempts(one)["error_class"].to_list() == ["stream_truncated"]


def test_a_page_where_a_stream_was_asked_for_does_not_end_quietly(tmp_path):
    """SDKs make an empty stream of it: strict raises, otherwise the page comes as it is."""
    tower = make(tmp_path)
    with FaultServer(default=HtmlPage()) as server:
        url = f"{server.openai_base_url}/chat/completions"
        with tower.http_client() as client, tower.run("x") as run:
            with pytest.raises(httpx2.RemoteProtocolError) as caught:
                client.post(url, json=STREAM)
            assert "simulated" in client.post(url, json=BODY).text
        with tower.http_client(strict_streams=False) as client, tower.run("x"):
            assert "simulated" in client.post(url, json=STREAM).text
    assert caught.value.error_class == "malformed_response"
    assert attempts(run)["error_class"].to_list() == ["malformed_response"] * 4


def leave(way, client, url):
    """Stop reading a stream after its first chunk."""
    if way == "closes":
        with client.stream("POST", url, json=STREAM) as response:
            next(response.iter_raw())
        return
    request = client.build_request("POST", url, json=STREAM)
    response = client.send(request, stream=True)
    if way == "reads":
        next(response.iter_raw())
    del response
    gc.collect()


@pytest.mark.parametrize("way", ["closes", "reads", "drops"])
def test_an_agent_that_stops_reading_ends_the_call(tmp_path, way):
    """Closed, or dropped with or without a byte read: cancelled, charged, spans ended."""
    tower = make(tmp_path, budget_usd=1.0)
    step = Reply(text=TEXT).with_(Delay(between_chunks_s=0.02))
    with FaultServer(default=step) as server, tower.http_client(provider="openai") as client:
        with tower.run("x") as run:
            leave(way, client, f"{server.openai_base_url}/chat/completions")
    spans = run.pack.frame("spans").sort("seq")
    assert spans["status"].to_list() == ["ok", "cancelled", "cancelled"]
    assert run.ledger.reserved == 0
    assert run.ledger.spent > 0
    assert run.pack.frame("costs")["wasted"].to_list() == [True]
    counts = run.pack.manifest["spans"]
    assert counts["dropped"] == counts["aborted"] == 0


def test_an_agent_that_stops_after_the_end_has_had_its_answer(tmp_path):
    """SDKs close the response at `[DONE]`, before HTTP's own end: the call succeeded."""
    tower = make(tmp_path)
    step = Reply(text=TEXT).with_(Delay(between_chunks_s=0.01))
    with FaultServer(default=step) as server, tower.http_client() as client:
        with tower.run("x") as run:
            url = f"{server.openai_base_url}/chat/completions"
            with client.stream("POST", url, json=STREAM) as response:
                for chunk in response.iter_raw():
                    if b"[DONE]" in chunk:
                        break
    assert attempts(run)["status"].to_list() == ["ok"]
    assert attempts(run)["gen_ai_usage_output_tokens"].to_list() == [5]


@pytest.mark.parametrize("stream", [False, True])
def test_a_cancelled_task_ends_its_call(tmp_path, stream):
    """Before the head or in the middle of a stream: cancelled, and nothing is left reserved."""
    tower = make(tmp_path, budget_usd=1.0)
    step = Reply(text=TEXT).with_(Stall(at_chunk=2) if stream else Stall())

    async def main(server):
        got = asyncio.Event()

        async def ask(client):
            url = f"{server.openai_base_url}/chat/completions"
            async with client.stream("POST", url, json=STREAM) as response:
                async for _ in response.aiter_raw():
                    got.set()

        async with tower.ahttp_client(provider="openai") as client:
            with tower.run("x") as run:
                task = asyncio.create_task(ask(client))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(got.wait(), 1.0 if stream else 0.1)
                await asyncio.sleep(0.05)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
        return run

    with FaultServer(default=step) as server:
        run = asyncio.run(main(server))
    assert attempts(run)["status"].to_list() == ["cancelled"]
    assert run.ledger.reserved == 0


def test_awaited_streams_keep_their_chunks_and_their_failures(tmp_path):
    """Whole, cut, truncated and stalled, on an event loop."""
    tower = make(tmp_path, attempt_timeout_s=0.3)
    whole = Reply(text=TEXT).with_(Delay(between_chunks_s=0.01))
    long = Reply(text=TEXT)
    steps = [whole, long.with_(Cut(at_chunk=2)), long.with_(CleanEnd(at_chunk=2)),
             long.with_(Stall(at_chunk=2))]  # fmt: skip

    async def main(server):
        url, got = f"{server.openai_base_url}/chat/completions", []
        async with tower.ahttp_client() as client:
            with tower.run("x") as run:
                for _ in steps:
                    try:
                        async with client.stream("POST", url, json=STREAM) as response:
                            got.append(len([c async for c in response.aiter_raw()]))
                    except httpx2.TransportError as error:
                        got.append(type(error).__name__)
        return run, got

    with FaultServer(steps) as server:
        run, got = asyncio.run(main(server))
    assert got[0] > 3
    assert got[1:] == ["RemoteProtocolError", "RemoteProtocolError", "ReadTimeout"]
    kinds = attempts(run)["error_class"].to_list()
    assert kinds == [None, "stream_interrupted", "stream_truncated", "timeout_read"]


def test_a_stream_that_is_left_gives_its_connection_back(tmp_path):
    """With a pool of one the next request gets it, on a thread and on an event loop."""
    tower = make(tmp_path)
    stalled = Reply(text=TEXT).with_(Stall(at_chunk=3))
    pool = {"limits": httpx2.Limits(max_connections=1), "timeout": httpx2.Timeout(1.0, pool=0.2)}

    async def main(url):
        kept = []
        async with tower.ahttp_client(**pool) as client:
            async with client.stream("POST", url, json=STREAM) as response:
                kept.append(response)  # no finalizer runs for what is still referred to
                async for _ in response.aiter_raw():
                    break
            return (await client.post(url, json=BODY)).status_code

    with FaultServer([stalled, Reply(), stalled, Reply()]) as server:
        url = f"{server.openai_base_url}/chat/completions"
        with tower.run("x"):
            assert asyncio.run(main(url)) == 200
        with tower.http_client(**pool) as client, tower.run("x"):
            leave("closes", client, url)
            assert client.post(url, json=BODY).status_code == 200


# -- runs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [BODY, STREAM])
def test_outside_of_a_run_each_call_is_a_run(tmp_path, body):
    """No evidence is lost, and the next call is not taken into the first one's run."""
    tower = make(tmp_path)
    with FaultServer([Reply(), Status(code=401), Reply()]) as server:
        with tower.http_client() as client:
            url = f"{server.openai_base_url}/chat/completions"
            for _ in range(2):
                client.post(url, json=body)
            with client.stream("POST", url, json=body) as response:
                assert tower.current() is None
                next(response.iter_raw())
    manifests = [p.read_text() for p in packs(tower)]
    assert len(manifests) == 3
    assert sum('"error_class": "auth_failed"' in m for m in manifests) == 1
    assert all('"http"' in m for m in manifests)


def test_a_stream_dropped_outside_of_a_run_leaves_its_pack(tmp_path):
    """Nobody closes it, nobody reads it: the run that was opened for it is sealed all the same."""
    tower = make(tmp_path)
    step = Reply(text=TEXT).with_(Delay(between_chunks_s=0.02))
    with FaultServer(default=step) as server, tower.http_client() as client:
        leave("drops", client, f"{server.openai_base_url}/chat/completions")
    assert ['"status": "cancelled"' in p.read_text() for p in packs(tower)] == [True]


def test_threads_share_a_client(tmp_path):
    """Each thread's calls are in its own run, four at a time, none lost."""
    tower, runs = make(tmp_path), []
    step = Reply(text=TEXT).with_(Delay(before_headers_s=0.02))

    def work(url, client):
        with tower.run("x") as run:
            for body in (BODY, STREAM) * 3:
                assert client.post(url, json=body).status_code == 200
        runs.append(run)

    with FaultServer(default=step) as server, tower.http_client() as client:
        url = f"{server.openai_base_url}/chat/completions"
        threads = [threading.Thread(target=work, args=(url, client)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        hits = server.hits
    assert len(runs) == 4
    assert [attempts(run)["status"].to_list() for run in runs] == [["ok"] * 6] * 4
    assert hits == 24


# -- clients ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("lib", LIBRARIES)
def test_a_client_keeps_its_options_and_proxies(tmp_path, lib, monkeypatch):
    """It is the library's own client; the transports of proxies are the tower's too."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "inside.test")
    tower = make(tmp_path)
    with tower.http_client(library=lib.__name__, timeout=7.0, headers={"x-a": "b"}) as client:
        assert isinstance(client, lib.Client)
        assert (client.timeout.read, client.headers["x-a"]) == (7.0, "b")
        with tower.run("x") as run, pytest.raises(lib.ConnectError):
            client.get("http://outside.test/")
    assert attempts(run).height == 2


def test_a_library_that_is_not_known_is_told(tmp_path):
    """Expected, got."""
    with pytest.raises(UsageError, match=r"httpx2, httpx, got 'requests'"):
        make(tmp_path).http_client(library="requests")


def test_what_the_page_shows_works_as_shown(tmp_path, monkeypatch):
    """The Python block of docs/howto/http.md runs and prints what the page says."""
    page = (Path(__file__).resolve().parents[2] / "docs/howto/http.md").read_text()
    monkeypatch.chdir(tmp_path)
    out = io.StringIO()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    with contextlib.redirect_stdout(out):
        exec(code, {"__name__": "page"})
    last = "3 ['upstream_5xx', None, 'auth_failed']"
    assert out.getvalue().splitlines() == ["Order 7 is on its way.", "auth_failed", last]
    assert last in page
