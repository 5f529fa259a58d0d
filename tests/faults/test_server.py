"""The server: it counts and keeps, withholds secrets, waits for nobody once closed."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from towerkit.core.env import SystemEnv
from towerkit.core.errors import UsageError
from towerkit.faults import (
    CleanEnd,
    Cut,
    Delay,
    FaultServer,
    Refuse,
    Reply,
    Script,
    Stall,
    Status,
)

CHAT = "/v1/chat/completions"


def ask(server, *, path=CHAT, body=None, headers=None, connection=None, method="POST"):
    """Send one request with the standard library; return status, headers and body."""
    own = connection or http.client.HTTPConnection("127.0.0.1", int(server.url.rsplit(":")[-1]))
    try:
        own.request(method, path, json.dumps(body or {"model": "m"}), headers or {})
        answer = own.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        if connection is None:
            own.close()


def test_steps_are_played_in_order_then_the_default():
    """Each request takes the next step, and the default answers for ever after."""
    with FaultServer([Status(code=500), Reply()], default=Status(code=429)) as server:
        assert [ask(server)[0] for _ in range(4)] == [500, 200, 429, 429]
    assert server.hits == 4
    assert [r.number for r in server.requests] == [1, 2, 3, 4]


def test_requests_are_kept_without_their_secrets():
    """Path, headers, parsed body and times are kept; keys in headers and query are not."""
    secret = "sk-never-kept"
    names = ("Authorization", "X-Api-Key", "X-Goog-Api-Key", "Api-Key", "Cookie")
    before = SystemEnv().mono_ns()
    with FaultServer() as server:
        path = f"/v1beta/models/g:generateContent?key={secret}&alt=json"
        ask(server, path=path, body={"contents": []}, headers=dict.fromkeys(names, secret))
    (kept,) = server.requests
    assert secret not in repr(kept)
    assert kept.path.endswith("?key=(withheld)&alt=json")
    assert (kept.format, kept.body, kept.stream) == ("gemini", {"contents": []}, False)
    assert (kept.status, kept.ended, kept.chunks_sent) == (200, "whole", 8)
    assert before < kept.arrived_ns < kept.ended_ns


def test_it_says_that_it_is_simulated():
    """The server header and the ids of every answer tell."""
    with FaultServer() as server:
        _, headers, body = ask(server)
    assert headers["Server"] == "towerkit-faults (simulated)"
    assert "simulated" in json.loads(body)["id"]


def test_one_connection_carries_several_requests():
    """Keep-alive holds after answers and errors alike, and ends where a fault ends it."""
    with FaultServer([Reply(), Status(code=500), Reply(), Refuse()]) as server:
        connection = http.client.HTTPConnection("127.0.0.1", int(server.url.rsplit(":")[-1]))
        statuses = [ask(server, connection=connection)[0] for _ in range(3)]
        with pytest.raises(http.client.RemoteDisconnected):
            ask(server, connection=connection)
        connection.close()
    assert statuses == [200, 500, 200]
    assert [r.ended for r in server.requests] == ["whole"] * 3 + ["no_answer"]


def test_hits_are_counted_exactly_under_concurrency():
    """200 requests from 16 threads: every one counted once, every step played once."""
    with FaultServer([Status(code=429)] * 50) as server, ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(lambda _: ask(server)[0], range(200)))
    assert server.hits == 200
    assert (statuses.count(429), statuses.count(200)) == (50, 150)
    assert all(r.ended == "whole" for r in server.requests)


@pytest.mark.parametrize(
    "step",
    [
        Reply().with_(Stall()),
        Reply().with_(Stall(at_chunk=2)),
        Reply().with_(Delay(before_headers_s=3600)),
        Reply().with_(Delay(between_chunks_s=3600)),
    ],
)
def test_no_wait_outlives_the_server(step):
    """Closing ends hour-long delays and stalls, and joins every thread that was waiting."""
    before = set(threading.enumerate())
    started = threading.Event()

    def waiting(server):
        started.set()
        with pytest.raises((http.client.HTTPException, OSError)):
            ask(server)

    env = SystemEnv()
    with FaultServer([step]) as server:
        client = threading.Thread(target=waiting, args=(server,))
        client.start()
        started.wait()
        while not server.hits:
            env.sleep(0.001)
        closing = env.mono_ns()
    client.join()
    assert env.mono_ns() - closing < 2e9
    assert set(threading.enumerate()) == before
    assert server.requests[0].ended in {"stall", "server_closed"}


def test_delays_come_before_the_headers_and_between_the_chunks():
    """The wait before the status line and each of the seven waits between pieces are kept."""
    delay = Delay(before_headers_s=0.05, between_chunks_s=0.01)
    with FaultServer([Reply().with_(delay)]) as server:
        ask(server)
    (kept,) = server.requests
    assert kept.ended_ns - kept.arrived_ns >= 0.05e9 + 7 * 0.01e9


@pytest.mark.parametrize(("k", "size"), [(0, 0), (3, None), (-1, None)])
def test_a_proper_end_is_proper_http_and_a_cut_is_not(k, size):
    """As many bytes arrive: after a cut the client can tell, after a proper end it cannot."""
    with FaultServer([CleanEnd(at_chunk=k), Cut(at_chunk=k)]) as server:
        _, _, ended = ask(server)
        with pytest.raises(http.client.IncompleteRead) as caught:
            ask(server)
    assert len(caught.value.partial) == len(ended)
    assert size is None or len(ended) == size


def test_a_client_that_leaves_is_told_as_that():
    """Hanging up in the middle of a stream is no problem of the server, and is kept."""
    long = Reply(text="word " * 200).with_(Delay(between_chunks_s=0.002))
    with FaultServer([long]) as server:
        with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":")[-1]))) as client:
            body = b'{"model": "m", "stream": true}'
            head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body)
            assert client.recv(64).startswith(b"HTTP/1.1 200")
        env = SystemEnv()
        while server.requests[0].ended == "open":
            env.sleep(0.002)
    assert server.requests[0].ended == "client_gone"


@pytest.mark.parametrize(("path", "method"), [("/v1/models", "GET"), ("/v1/embeddings", "POST")])
def test_an_endpoint_it_does_not_speak_is_404_and_counted(path, method):
    """No step is used up by it."""
    with FaultServer([Status(code=500)]) as server:
        assert ask(server, path=path, method=method)[0] == 404
        assert ask(server)[0] == 500
    assert server.hits == 2
    assert server.requests[0].format is None


def test_what_a_script_cannot_do_is_raised_when_the_server_closes():
    """The client gets a 500 that says so, and the test that wrote the script fails."""
    with pytest.raises(UsageError, match="8 chunks"), FaultServer([Cut(at_chunk=99)]) as server:
        status, _, body = ask(server)
        assert (status, b"8 chunks" in body) == (500, True)
    assert server.requests[0].ended == "impossible"


def test_a_failing_test_keeps_its_own_error():
    """The error inside the block is the one raised; the server's problem is a note on it."""
    with pytest.raises(KeyError) as caught, FaultServer([Cut(at_chunk=99)]) as server:
        ask(server)
        raise KeyError
    assert "8 chunks" in caught.value.__notes__[0]


def test_play_replaces_the_script_and_goes_on_counting():
    """One server, several scripts; a port cannot be changed while it is open."""
    with FaultServer([Status(code=500)]) as server:
        assert ask(server)[0] == 500
        server.play([Status(code=429)])
        assert [ask(server)[0] for _ in range(2)] == [429, 200]
        with pytest.raises(UsageError, match="another FaultServer"):
            server.play(Script(port="refused"))
    assert server.hits == 3


@pytest.mark.parametrize(
    ("port", "error"), [("refused", ConnectionRefusedError), ("silent", TimeoutError)]
)
def test_a_port_may_be_closed_or_deaf(port, error):
    """Nobody listens, or nobody ever accepts: no request arrives, and closing does not wait."""
    with FaultServer(Script(port=port)) as server:
        address = ("127.0.0.1", int(server.url.rsplit(":")[-1]))
        with pytest.raises(error):
            socket.create_connection(address, timeout=0.1)
    assert server.hits == 0


def test_a_server_is_open_inside_its_block_only():
    """No address before, no second opening."""
    server = FaultServer()
    with pytest.raises(UsageError, match="with block"):
        _ = server.url
    with server:
        assert server.url.startswith("http://127.0.0.1:")
    with pytest.raises(UsageError, match="opened once"):
        server.__enter__()
