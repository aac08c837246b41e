"""A faulty HTTP proxy: stands before a server and does to its traffic what networks do."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event
from typing import Any, Self

CHUNK = 64 * 1024
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade"}


@dataclass
class Fault:
    """What happens to requests of a method and path (regular expressions), `times` times.

    `status` answers with it (and `headers`) instead of the server. `reset_after` breaks the
    connection after so many bytes of the request's body have reached the server. `truncated`
    passes on the first half of the request's body as if it were all of it; `halved` does so with
    the answer's body, and breaks the connection. `stall` answers nothing until the proxy closes.
    `before` is called when the fault strikes.
    """

    method: str
    path: str
    times: float = float("inf")
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    reset_after: int = -1
    truncated: bool = False
    halved: bool = False
    stall: bool = False
    before: Callable[[], object] = lambda: None

    def strikes(self, method: str, path: str) -> bool:
        return (
            self.times > 0
            and re.fullmatch(self.method, method) is not None
            and re.search(self.path, path) is not None
        )


@dataclass(frozen=True)
class Request:
    """A request as it came in, and the status that was answered; 0: none, the line broke."""

    method: str
    path: str
    status: int


class FaultyProxy:
    """An HTTP proxy on a port of its own, for as long as its block lasts.

    `upstream` returns the address of the server, asked for each request: a server that was
    started again has another one. `faults` are looked at in their order; `requests` tells what
    came in.
    """

    def __init__(self, upstream: Callable[[], str]) -> None:
        self.upstream = upstream
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.closing = Event()
        self._lock = threading.Lock()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def address(self) -> str:
        host, port = self._server.server_address[:2]
        return f"{host!s}:{port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def clear(self) -> None:
        """Be a good proxy again, that has seen nothing yet."""
        with self._lock:
            self.faults.clear()
            self.requests.clear()

    def release_stalled(self) -> None:
        """Break the connections that are stalled; no request is stalled any more."""
        with self._lock:
            self.faults = [fault for fault in self.faults if not fault.stall]
            self.closing.set()
            self.closing = Event()

    def seen(self, method: str = ".*", path: str = "", status: int | None = None) -> int:
        """Return how many requests of a method and path there were."""
        with self._lock:
            return sum(
                re.fullmatch(method, request.method) is not None
                and re.search(path, request.path) is not None
                and status in {None, request.status}
                for request in self.requests
            )

    def note(self, method: str, path: str, status: int) -> None:
        with self._lock:
            self.requests.append(Request(method, path, status))

    def fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.strikes(method, path):
                    fault.times -= 1
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, proxy: FaultyProxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, *_: object) -> None:
        """Say nothing: connections break here all the time, as they should."""


class _Broken(Exception):  # noqa: N818
    """The line to the client is to be broken."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        proxy = self.server.proxy
        stalled = proxy.closing
        fault = proxy.fault(self.command, self.path)
        try:
            if fault:
                fault.before()
            status = self._answered(fault, proxy, stalled)
        except (_Broken, OSError, HTTPException):
            proxy.note(self.command, self.path, 0)
            self._break()
            return
        proxy.note(self.command, self.path, status)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

    def _answered(self, fault: Fault | None, proxy: FaultyProxy, stalled: Event) -> int:
        if fault and fault.stall:
            stalled.wait()
            raise _Broken
        if fault and fault.status:
            for _ in self._body():
                pass
            self._answer(fault.status, list(fault.headers.items()), fault.body)
            return fault.status
        return self._passed_on(fault, proxy.upstream())

    def _passed_on(self, fault: Fault | None, upstream: str) -> int:
        headers = {
            name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP
        }
        body: Any = self._body()
        if fault and fault.reset_after >= 0:
            body = _broken_after(body, fault.reset_after)
        if fault and fault.truncated:
            whole = b"".join(body)
            body = whole[: len(whole) // 2]
            headers["Content-Length"] = str(len(body))
        chunked = "Content-Length" not in headers and self._has_body
        if chunked:
            headers["Transfer-Encoding"] = "chunked"
        server = HTTPConnection(upstream, timeout=60)
        try:
            server.request(
                self.command,
                self.path,
                body=body if self._has_body else None,
                headers=headers,
                encode_chunked=chunked,
            )
            answer = server.getresponse()
            content = answer.read()
        finally:
            server.close()
        self._answer(
            answer.status, answer.getheaders(), content, halved=bool(fault and fault.halved)
        )
        return answer.status

    def _answer(
        self,
        status: int,
        headers: Sequence[tuple[str, str]],
        content: bytes,
        *,
        halved: bool = False,
    ) -> None:
        self.send_response_only(status)
        has_body = self.command != "HEAD" and status not in {204, 304}
        for name, value in headers:
            if name.lower() not in HOP_BY_HOP and not (
                has_body and name.lower() == "content-length"
            ):
                self.send_header(name, value)
        if has_body:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if has_body:
            self.wfile.write(content[: len(content) // 2] if halved else content)
        if halved:
            raise _Broken

    # --- the body of a request -------------------------------------------------------------------

    @property
    def _has_body(self) -> bool:
        return self._chunked or self.headers.get("Content-Length", "0") != "0"

    @property
    def _chunked(self) -> bool:
        return self.headers.get("Transfer-Encoding", "").lower() == "chunked"

    def _body(self) -> Iterator[bytes]:
        if not self._chunked:
            left = int(self.headers.get("Content-Length", "0"))
            while left:
                part = self._read(min(CHUNK, left))
                left -= len(part)
                yield part
            return
        while size := int(self.rfile.readline().split(b";")[0], 16):
            while size:
                part = self._read(min(CHUNK, size))
                size -= len(part)
                yield part
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    def _read(self, size: int) -> bytes:
        part = self.rfile.read(size)
        if not part:
            raise _Broken
        return part

    def _break(self) -> None:
        """Break the connection the hard way: with a reset."""
        self.close_connection = True
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()


def _broken_after(body: Iterator[bytes], count: int) -> Iterator[bytes]:
    for part in body:
        if len(part) >= count:
            yield part[:count]
            raise _Broken
        count -= len(part)
        yield part
    raise _Broken
