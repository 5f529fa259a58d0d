"""The scorecard in a real browser: charts show, nothing is requested, nothing complains."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import websocket

from towerkit.evals import ModelChoice, Setup, evaluate
from towerkit.packs.store import Store
from towerkit.report import run_notebook
from towerkit.scenarios import load_scenario


@pytest.fixture(scope="module")
def chromium() -> str:
    """Return the browser; where it is missing, CI fails and a person is told."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        message = "Chromium is not installed (Debian: apt-get install chromium)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


@pytest.fixture(scope="module")
def scorecard(tmp_path_factory) -> Path:
    """Return the page of the gate notebook over a few simulated runs."""
    root = tmp_path_factory.mktemp("scorecard")
    scenario = load_scenario("billing_dispute_resolution")
    setup = Setup(scenario=scenario, store=Store(root), models=ModelChoice(), release="r", seed=3,
                  budget_usd=0.09)  # fmt: skip
    cases = [*scenario.suite("golden")[:3], *scenario.suite("adversarial")[:3]]
    done = evaluate(setup, cases, trials=1, eval_id="e")
    parameters = {"store": str(root), "candidate": "eval=e", "rules": scenario.name,
                  "run_id": done.runs[0].pack.run_id}  # fmt: skip
    return run_notebook("gate", parameters, out_dir=root / "reports").html


class Browser:
    """Just enough of the DevTools protocol: commands by number, events kept."""

    def __init__(self, url: str):
        """Connect to a page's debugger."""
        self._socket = websocket.create_connection(url, timeout=30, suppress_origin=True)
        self._numbers = itertools.count(1)
        self.events: list[dict] = []

    def call(self, method: str, **params):
        """Send a command and return its result; events that come before it are kept."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                return message["result"]
            self.events.append(message)

    def wait_for(self, name: str) -> None:
        """Read events until one of that name came."""
        while not any(e.get("method") == name for e in self.events):
            self.events.append(json.loads(self._socket.recv()))

    def of(self, name: str) -> list[dict]:
        """Return the parameters of all events of a name."""
        return [e["params"] for e in self.events if e.get("method") == name]

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


@pytest.fixture
def browser(chromium, tmp_path):
    """Return a connection to a blank page of a browser whose network leads nowhere."""
    process = subprocess.Popen(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
         "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}",
         "about:blank"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        port = next(
            m.group(1) for line in process.stderr if (m := re.search(r"ws://[^:]+:(\d+)/", line))
        )
        session = Browser(_page_socket(int(port)))
        yield session
        session.close()
    finally:
        process.kill()
        process.communicate()


def _page_socket(port: int) -> str:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=30) as answer:
        pages = json.load(answer)
    return next(p["webSocketDebuggerUrl"] for p in pages if p["type"] == "page")


def test_the_scorecard_shows_its_charts_offline_and_logs_nothing(browser, scorecard):
    """Every picture has a size, no request leaves the file, the console is empty."""
    for domain in ("Page", "Network", "Log", "Runtime"):
        browser.call(f"{domain}.enable")
    browser.call("Page.navigate", url=scorecard.as_uri())
    browser.wait_for("Page.loadEventFired")
    script = "JSON.stringify([...document.images].map(i => [i.naturalWidth, i.alt]))"
    value = browser.call("Runtime.evaluate", expression=script)["result"]["value"]
    pictures = json.loads(value)
    assert len(pictures) >= 4
    assert all(width > 50 and alt for width, alt in pictures), pictures
    requests = [r["request"]["url"] for r in browser.of("Network.requestWillBeSent")]
    assert [u for u in requests if not u.startswith("data:")] == [scorecard.as_uri()]
    assert browser.of("Log.entryAdded") == []
    assert browser.of("Runtime.consoleAPICalled") == []
    assert browser.of("Runtime.exceptionThrown") == []


def test_the_page_allows_no_script(browser, scorecard, tmp_path):
    """Injected into the page, a script and a handler do not run: its policy forbids them."""
    for domain in ("Page", "Log"):
        browser.call(f"{domain}.enable")
    evil = "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"
    page = tmp_path / "evil.html"
    page.write_text(scorecard.read_text().replace("</main>", evil + "</main>"))
    assert "document.title='run'" in page.read_text()
    browser.call("Page.navigate", url=page.as_uri())
    browser.wait_for("Page.loadEventFired")
    title = browser.call("Runtime.evaluate", expression="document.title")["result"]["value"]
    assert title != "run"
    assert any(
        "Content Security Policy" in e["entry"]["text"] for e in browser.of("Log.entryAdded")
    )
