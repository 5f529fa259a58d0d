"""A provider on a loopback port that answers by script, fails on purpose and counts its hits.

Rule: no wait outlives the server. Every delay waits on the event that `close` sets, every thread is
joined, and what a script cannot do is raised when the server closes, never hidden.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
from collections.abc import Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self

import msgspec

from towerkit.core.env import Env, SystemEnv
from towerkit.core.errors import UsageError
from towerkit.faults.render import Rendered, render
from towerkit.faults.steps import Script, Step, script_of
from towerkit.faults.wire import Format, asked_by

# Never kept: what a request proves itself with.
SECRET_HEADERS = frozenset(
    ("authorization", "proxy-authorization", "x-api-key", "x-goog-api-key", "api-key", "cookie")
)
WITHHELD = "(withheld)"
HOST = "127.0.0.1"
_KEY_IN_QUERY = re.compile(r"([?&](?:key|api[-_]key)=)[^&]*")
_POLL_S = 0.02  # how long `close` waits at most for the accepting loop
_BACKLOG_FILLERS = 4

Ended = Literal[
    "open", "whole", "cut", "reset", "stall", "no_answer", "client_gone", "server_closed",
    "impossible",
]  # fmt: skip


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """One request and what became of it. Times are monotonic nanoseconds of the server's `env`.

    `path` has its keys and `headers` their secrets withheld. `ended` is "open" while it is being
    answered and final once the server is closed; "whole" says that HTTP misses nothing, which a
    `CleanEnd` is as well.
    """

    number: int
    method: str
    path: str
    format: Format | None
    stream: bool
    headers: Mapping[str, str]
    body: Any
    step: Step | None
    arrived_ns: int
    ended_ns: int | None = None
    status: int | None = None
    chunks_sent: int = 0
    ended: Ended = "open"


class FaultServer:
    """Serve `steps`, one a request, then `default` (a good `Reply`); a context manager.

    `requests` proves what was asked and `hits` how often: hits == attempts is the test of a retry
    owner. Simulated: every answer carries the header `server: towerkit-faults (simulated)`.
    """

    def __init__(
        self, steps: Script | Iterable[object] = (), *, default: object = None,
        env: Env | None = None,
    ) -> None:  # fmt: skip
        """Check the script; nothing is opened before the `with` block."""
        self.script = script_of(steps, default=default)
        self.env: Env = env or SystemEnv()
        self._played = 0
        self._exchanges: list[Exchange] = []
        self._problems: list[Exception] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._http: _HttpServer | None = None
        self._door: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._port = 0

    def __enter__(self) -> Self:
        if self._port:
            raise UsageError("a FaultServer is opened once: make another one")
        if self.script.port == "open":
            self._http = _HttpServer(self)
            self._port = self._http.server_port
            self._thread = threading.Thread(
                target=self._http.serve_forever, args=(_POLL_S,), name="towerkit-fault-server"
            )
            self._thread.start()
        else:
            self._shut_door()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        problem = self._close()
        if problem is not None and error is None:
            raise problem
        if problem is not None and error is not None:
            error.add_note(f"the fault server had a problem of its own: {problem}")

    def close(self) -> None:
        """End every wait, close every connection, join every thread; raise what went wrong."""
        problem = self._close()
        if problem is not None:
            raise problem

    def play(self, steps: Script | Iterable[object], *, default: object = None) -> None:
        """Replace the script from the next request on; requests and hits go on counting."""
        script = script_of(steps, default=default)
        if script.port != self.script.port:
            raise UsageError(
                f"expected a script for a port that is {self.script.port}, got {script.port}: "
                f"open another FaultServer"
            )
        with self._lock:
            self.script, self._played = script, 0

    @property
    def url(self) -> str:
        """Return the root, such as http://127.0.0.1:50123."""
        if not self._port:
            raise UsageError("a FaultServer has a port inside its with block only")
        return f"http://{HOST}:{self._port}"

    @property
    def openai_base_url(self) -> str:
        """Return what the openai SDK takes as `base_url`."""
        return f"{self.url}/v1"

    @property
    def anthropic_base_url(self) -> str:
        """Return what the anthropic SDK takes as `base_url`."""
        return self.url

    @property
    def gemini_base_url(self) -> str:
        """Return what google-genai takes as `HttpOptions(base_url=…)`."""
        return self.url

    @property
    def hits(self) -> int:
        """Return how many requests have arrived, refused ones and unknown paths included."""
        with self._lock:
            return len(self._exchanges)

    @property
    def requests(self) -> tuple[Exchange, ...]:
        """Return what has arrived so far, in order of arrival."""
        with self._lock:
            return tuple(self._exchanges)

    def _shut_door(self) -> None:
        """Hold a port without accepting: unheard connections are refused, or never answered."""
        self._door = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._door.bind((HOST, 0))
        self._port = self._door.getsockname()[1]
        if self.script.port == "refused":
            return
        # A full accept queue: the system drops further SYNs and a client waits for its time-out.
        self._door.listen(0)
        for _ in range(_BACKLOG_FILLERS):
            filler = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            filler.settimeout(0)
            filler.connect_ex((HOST, self._port))
            self._sockets.add(filler)

    def _close(self) -> Exception | None:
        self._closing.set()
        if self._http is not None and self._thread is not None:
            self._http.shutdown()
            self._thread.join()
        with self._lock:
            open_sockets = list(self._sockets)
        for connection in open_sockets:
            _hang_up(connection)
        if self._http is not None:
            self._http.server_close()  # joins the threads of the connections
        if self._door is not None:
            self._door.close()
            for filler in open_sockets:
                filler.close()
        return self._problems[0] if self._problems else None

    # What follows is called by the threads of the connections.

    def _connected(self, connection: socket.socket) -> None:
        with self._lock:
            self._sockets.add(connection)
        if self._closing.is_set():
            _hang_up(connection)

    def _disconnected(self, connection: socket.socket) -> None:
        with self._lock:
            self._sockets.discard(connection)

    def _arrived(self, method: str, target: str, headers: Mapping[str, str], body: Any) -> Exchange:
        now = self.env.mono_ns()
        with self._lock:
            number = len(self._exchanges) + 1
            asked = asked_by(target, body, number=number)
            step: Step | None = None
            if asked is not None and method == "POST":
                steps, played = self.script.steps, self._played
                step = steps[played] if played < len(steps) else self.script.default
                self._played += 1
            exchange = Exchange(
                number=number, method=method, path=_KEY_IN_QUERY.sub(rf"\1{WITHHELD}", target),
                format=asked.format if asked else None, stream=bool(asked and asked.stream),
                headers={k: WITHHELD if k in SECRET_HEADERS else v for k, v in headers.items()},
                body=body, step=step, arrived_ns=now,
            )  # fmt: skip
            self._exchanges.append(exchange)
        return exchange

    def _finished(self, number: int, **outcome: Any) -> None:
        now = self.env.mono_ns()
        with self._lock:
            exchange = self._exchanges[number - 1]
            self._exchanges[number - 1] = msgspec.structs.replace(exchange, ended_ns=now, **outcome)

    def _failed(self, problem: Exception) -> None:
        with self._lock:
            self._problems.append(problem)


def _hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the peer was faster: the connection is gone, which is what was wanted


class _HttpServer(ThreadingHTTPServer):
    """Threads are joined on close; what a handler raises is kept for the owner to raise."""

    daemon_threads = False
    block_on_close = True
    request_queue_size = 1024

    def __init__(self, owner: FaultServer) -> None:
        self.owner = owner
        super().__init__((HOST, 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002
        import sys  # noqa: PLC0415  socketserver tells the error by sys.exc_info only

        problem = sys.exc_info()[1]
        # A client that hangs up between requests is a client's right, not a problem.
        if isinstance(problem, Exception) and not isinstance(problem, ConnectionError):
            self.owner._failed(problem)  # noqa: SLF001  one module, two halves of one thing


class _Handler(BaseHTTPRequestHandler):
    """Sends what was rendered."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "towerkit-faults", "(simulated)"
    disable_nagle_algorithm = True
    server: _HttpServer

    def setup(self) -> None:
        super().setup()
        self.server.owner._connected(self.connection)  # noqa: SLF001

    def finish(self) -> None:
        self.server.owner._disconnected(self.connection)  # noqa: SLF001
        super().finish()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: the exchanges are the log."""

    def do_POST(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        owner = self.server.owner
        size = int(self.headers.get("content-length") or 0)
        body = _parsed(self.rfile.read(size))
        headers = {k.lower(): v for k, v in self.headers.items()}
        exchange = owner._arrived(self.command, self.path, headers, body)  # noqa: SLF001
        self._sent = 0
        self._status: int | None = None
        try:
            ended = self._play(exchange)
        except ConnectionError:
            ended = "server_closed" if owner._closing.is_set() else "client_gone"  # noqa: SLF001
            self.close_connection = True
        owner._finished(  # noqa: SLF001
            exchange.number, ended=ended, status=self._status, chunks_sent=self._sent
        )

    def _play(self, exchange: Exchange) -> Ended:
        if exchange.step is None:
            self._plain(
                404, "no such endpoint: /chat/completions, /responses, /messages, /models/…"
            )
            return "whole"
        asked = asked_by(self.path, exchange.body, number=exchange.number)
        try:
            answer = render(exchange.step, asked)  # type: ignore[arg-type]  # a step was chosen
        except UsageError as problem:
            self.server.owner._failed(problem)  # noqa: SLF001
            self._plain(500, str(problem))
            return "impossible"
        delay = exchange.step.delay
        if not self._waited(delay.before_headers_s):
            return "server_closed"
        if answer.headers_sent:
            self._head(answer)
            for chunk in answer.chunks:
                if self._sent and not self._waited(delay.between_chunks_s):
                    return "server_closed"
                self._chunk(chunk, framed=answer.length is None)
        return self._end(answer)

    def _waited(self, seconds: float) -> bool:
        """Wait; False when the server closed meanwhile."""
        if seconds > 0 and self.server.owner._closing.wait(seconds):  # noqa: SLF001
            self.close_connection = True
            return False
        return True

    def _head(self, answer: Rendered) -> None:
        self._status = answer.status
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.length is None:
            self.send_header("transfer-encoding", "chunked")
        else:
            self.send_header("content-length", str(answer.length))
        self.end_headers()

    def _chunk(self, data: bytes, *, framed: bool) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data) if framed else data)
        self._sent += 1

    def _end(self, answer: Rendered) -> Ended:
        if answer.ending == "whole":
            if answer.length is None:
                self.wfile.write(b"0\r\n\r\n")
            return "whole"
        self.close_connection = True
        if answer.ending == "stall":
            self.server.owner._closing.wait()  # noqa: SLF001
        if answer.ending == "reset":
            self._reset()
        return answer.ending

    def _reset(self) -> None:
        """Close so that the peer gets a TCP RST: lingering for no time, every handle closed."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.server.owner._disconnected(self.connection)  # noqa: SLF001
        self.rfile.close()
        self.connection.close()

    def _plain(self, status: int, text: str) -> None:
        data = text.encode()
        self._head(
            Rendered(
                status=status, headers={"content-type": "text/plain"}, chunks=(), length=len(data)
            )
        )
        self._chunk(data, framed=False)


def _parsed(data: bytes) -> Any:
    """Return a JSON body, or the text of one that is not JSON; None when there is none."""
    if not data:
        return None
    try:
        return json.loads(data)
    except ValueError:
        return data.decode(errors="replace")
