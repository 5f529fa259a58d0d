"""What a request proves itself with, and what a stream cuts in two, is in no byte of a pack."""

from __future__ import annotations

import httpx2
import pytest

from towerkit.runtime.tower import Tower

BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}


def over(tower, handler):
    """Return a client whose network is a function."""
    return httpx2.Client(transport=tower.http_transport(httpx2.MockTransport(handler)))


SECRETS = {
    "authorization": "Bearer opaque-bearer-value-1", "x-api-key": "opaque-key-value-2",
    "cookie": "sid=opaque-cookie-value-3", "x-goog-api-key": "opaque-google-value-4",
}  # fmt: skip
HIDDEN = ["opaque-bearer-value-1", "opaque-key-value-2", "opaque-cookie-value-3",
          "opaque-google-value-4", "opaque-query-value-5", "botopaque7path7value7six"]  # fmt: skip


@pytest.mark.parametrize("status", [200, 401, 500])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/botopaque7path7value7six/send"])
def test_secrets_are_in_no_byte_of_the_pack(tmp_path, status, path):
    """Not from headers, query or path, even where the answer repeats all of them."""

    def echo(request):
        return httpx2.Response(
            status, json={"error": {"message": str([*request.headers.items(), str(request.url)])}}
        )

    tower = Tower(store=tmp_path)
    with over(tower, echo) as client, tower.run("x") as run:
        url = f"http://models.test{path}?key=opaque-query-value-5&alt=sse"
        response = client.post(url, json=BODY, headers=SECRETS)
        assert all(h in response.text for h in HIDDEN[:5])
    body = [run.pack.content(d) for d in run.pack.frame("content")["digest"]]
    tables = "".join(str(run.pack.frame(t).to_dicts()) for t in ("spans", "inputs", "costs"))
    kept = str(body) + tables
    assert "chat/completions" in kept or "/send" in kept
    assert [h for h in HIDDEN if h in kept] == []


def test_an_address_cut_in_two_by_a_stream_is_not_kept(tmp_path):
    """Its halves are no address, the text they make is: the first event has it, redacted."""
    tower = Tower(store=tmp_path)
    parts = ["ann@exam", "ple.com", None]
    events = b"".join(
        b"data: " + httpx2.Response(200, json={"choices": [{"index": 0, "delta": {"content": p},
            "finish_reason": None if p else "stop"}]}).content + b"\n\n" for p in parts
    )  # fmt: skip

    def handler(request):
        headers = {"content-type": "text/event-stream"}
        return httpx2.Response(200, headers=headers, content=events + b"data: [DONE]\n\n")

    with over(tower, handler) as client, tower.run("x") as run:
        assert (
            b"ple.com"
            in client.post(
                "http://m.test/v1/chat/completions", json=BODY | {"stream": True}
            ).content
        )
    kept = str([run.pack.content(d) for d in run.pack.frame("content")["digest"]])
    assert "ple.com" not in kept
    assert "<EMAIL:" in kept
    assert "'content': ''" in kept  # what the second event had is said in the first
