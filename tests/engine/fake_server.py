"""HTTP servers in this process: small, and they also answer what they are told to."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar


@dataclass(frozen=True)
class Answer:
    """What is answered. `broken` resets the connection instead; `cut` does so half-way."""

    status: int = 200
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    broken: bool = False
    cut: bool = False


@dataclass(frozen=True)
class Request:
    """A request as it came in."""

    method: str
    path: str
    headers: Mapping[str, str]
    content: bytes


@dataclass
class Told:
    """An answer to requests of a method and path (a regular expression), so many times."""

    method: str
    path: str
    answer: Answer
    times: float = 1


@dataclass
class FakeServer:
    """What it is told to answer, and what it was asked; by itself it knows nothing."""

    address: str = ""
    told: list[Told] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def tell(self, method: str, path: str, answer: Answer, times: float = 1) -> None:
        self.told.append(Told(method, path, answer, times))

    def seen(self, method: str, path: str = "") -> int:
        return sum(
            r.method == method and re.search(path, r.path) is not None for r in self.requests
        )

    def answer(self, request: Request) -> Answer:
        self.requests.append(request)
        for told in self.told:
            if (
                told.times > 0
                and told.method == request.method
                and re.search(told.path, request.path)
            ):
                told.times -= 1
                return told.answer
        return self.by_itself(request)

    def by_itself(self, _: Request) -> Answer:
        return Answer(404)


Fake = TypeVar("Fake", bound=FakeServer)


@contextmanager
def running(fake: Fake) -> Iterator[Fake]:
    """Run a server on a port of its own."""

    class Handler(_Handler):
        server_itself = fake

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        fake.address = f"127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield fake
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_itself: FakeServer

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        size = int(self.headers.get("Content-Length", "0"))
        headers = {name.title(): value for name, value in self.headers.items()}
        answer = self.server_itself.answer(
            Request(self.command, self.path, headers, self.rfile.read(size))
        )
        if answer.broken:
            self._break()
            return
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        if self.command != "HEAD" and answer.status != 204:
            content = answer.content
            self.wfile.write(content[: len(content) // 2] if answer.cut else content)
        if answer.cut:
            self._break()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

    def _break(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
