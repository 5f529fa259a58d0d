"""A backend in this process: OTLP over HTTP as the protocol's own exporter speaks it."""

from __future__ import annotations

import gzip
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Backend:
    """What a backend got. `status` is what it answers."""

    def __init__(self):
        """Listen on a free port of this machine."""
        self.status, self.requests = 200, []
        backend = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                backend.requests.append((self.path, dict(self.headers), body))
                self.send_response(backend.status)
                self.end_headers()

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def exports(self):
        """Return each request as OTLP in JSON; protobuf's own mapping, ids in base64."""
        return [MessageToDict(ExportTraceServiceRequest.FromString(b)) for _, _, b in self.requests]

    def spans(self):
        """Return the spans of all requests: name, kind and attributes as plain values."""
        return [
            {"name": s["name"], "kind": s["kind"], "status": s["status"],
             "links": s.get("links", []), "events": s.get("events", []),
             "attributes": {a["key"]: value(a["value"]) for a in s["attributes"]}}
            for export in self.exports() for r in export["resourceSpans"]
            for scoped in r["scopeSpans"] for s in scoped["spans"]
        ]  # fmt: skip


def value(of):
    """Return what an AnyValue holds."""
    if "arrayValue" in of:
        return [value(v) for v in of["arrayValue"].get("values", [])]
    ((kind, found),) = of.items()
    return int(found) if kind == "intValue" else found


@contextmanager
def backend():
    """Run a backend for the length of a block."""
    made = Backend()
    threading.Thread(target=made.server.serve_forever, daemon=True).start()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()


def as_lines(exports):
    """Return exports as the lines of a file."""
    return "\n".join(json.dumps(e) for e in exports).encode()
