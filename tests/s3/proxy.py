"""A way to the S3 server that goes wrong on demand."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self

from tests.s3.server import ADDRESS

Kind = Literal["answer", "drop_request", "drop_answer", "cut_answer"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One request that goes wrong.

    answer: the server never sees it, and ``status`` with ``body`` comes back; drop_request: the connection is closed
    before the server sees it; drop_answer: the server does it, and the connection is closed then; cut_answer: of the
    body only ``num_bytes`` come.
    """

    kind: Kind
    status: int = 503
    body: bytes = b""
    num_bytes: int = 0


SLOW_DOWN = Fault(
    "answer", 503, b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


class Proxy:
    """Passes requests on; those that ``fail`` names go wrong."""

    def __init__(self, port: int) -> None:
        self.seen: deque[str] = deque()
        self._port = port
        self._faults: list[tuple[Callable[[str], bool], Fault]] = []
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_any(self) -> None:
                proxy.pass_on(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_any  # noqa: N815

        self._server = ThreadingHTTPServer((ADDRESS, 0), Handler)
        self.endpoint_url = f"http://{ADDRESS}:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail(self, fault: Fault, *, times: int = 1, when: Callable[[str], bool] = lambda line: True) -> None:
        """The next requests go wrong whose line (such as ``PUT /bucket/key?uploads``) is one for ``when``."""
        with self._lock:
            self._faults += [(when, fault)] * times

    def heal(self) -> None:
        """Nothing goes wrong any more."""
        with self._lock:
            self._faults.clear()

    @property
    def is_all_done(self) -> bool:
        """Whether all faults have happened."""
        return not self._faults

    def pass_on(self, request: BaseHTTPRequestHandler) -> None:
        """Do with a request what the next fault for it says, or what a proxy does."""
        line = f"{request.command} {request.path}"
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        fault = self._fault_for(line)
        if fault is not None and fault.kind == "answer":
            _answer(request, fault.status, {"Content-Type": "application/xml"}, fault.body)
            return
        request.close_connection = fault is not None
        if fault is not None and fault.kind == "drop_request":
            return
        connection = HTTPConnection(ADDRESS, self._port, timeout=60)
        try:
            response, content = _forward(connection, request, body)
        except OSError:  # the server is down
            request.close_connection = True
            return
        finally:
            connection.close()
        if fault is None:
            _answer(request, response.status, dict(response.getheaders()), content)
        elif fault.kind == "cut_answer":
            _answer(request, response.status, dict(response.getheaders()), content, num_bytes=fault.num_bytes)

    def _fault_for(self, line: str) -> Fault | None:
        with self._lock:
            self.seen.append(line)
            for index, (when, fault) in enumerate(self._faults):
                if when(line):
                    del self._faults[index]
                    return fault
        return None


def _forward(connection: HTTPConnection, request: BaseHTTPRequestHandler, body: bytes) -> tuple[HTTPResponse, bytes]:
    connection.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
    for name, value in request.headers.items():
        if name.lower() != "expect":
            connection.putheader(name, value)
    connection.endheaders(body)
    response = connection.getresponse()
    return response, response.read()


def _answer(
    request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes, *, num_bytes: int | None = None
) -> None:
    request.send_response_only(status)
    for name, value in headers.items():
        if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
            request.send_header(name, value)
    length = headers.get("Content-Length", "0") if request.command == "HEAD" else str(len(body))
    request.send_header("Content-Length", length)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body[:num_bytes])
    request.wfile.flush()
