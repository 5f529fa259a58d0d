"""The adapters on one fault server, made once; a provider that answers what a test says."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from four_adapters import Adapters


@pytest.fixture(scope="session")
def adapters():
    """Return the adapters on a server whose port is open."""
    house = Adapters()
    yield house
    house.close()


class Scripted:
    """A loopback server that answers from a list and keeps what it was asked."""

    def __init__(self):
        """Start on a free port."""
        self.answers, self.asked = [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                size = int(self.headers["content-length"])
                outer.asked.append((self.path, json.loads(self.rfile.read(size))))
                status, body, headers = outer.answers.pop(0)
                data = json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"content-type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def server():
    """Return a scripted provider."""
    scripted = Scripted()
    yield scripted
    scripted.server.shutdown()
    scripted.server.server_close()
