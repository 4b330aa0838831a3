"""A real S3 server in this process (moto's), and a proxy before it that injects the faults of networks and busy storages."""

from __future__ import annotations

import http.client
import logging
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
FAULTS = ("busy", "cut", "reset", "lost answer", "late")
"""503 SlowDown; a body that ends half-way; a connection reset before the request counts, or after it was carried out; an answer
that comes after the client's patience (`Proxy.late_s`)."""


def start_moto() -> Any:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    return server


class Proxy:
    """Passes requests on to `port`; `fault` says for each (number, method, path) which fault it meets, "" for none.

    Attributes:
        met: faults by kind.
        requests: (method, path) of all requests.
        halfway: called when half of an upload's body has come.
    """

    def __init__(self, port: int, fault: Callable[[int, str, str], str] = lambda number, method, path: "") -> None:
        self.port, self.fault, self.late_s = port, fault, 3.0
        self.met: Counter[str] = Counter()
        self.requests: list[tuple[str, str]] = []
        self.halfway: Callable[[str], None] = lambda path: None
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _handler(proxy) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def _pass(self) -> None:
                with proxy.lock:
                    proxy.requests.append((self.command, self.path))
                    fault = proxy.fault(len(proxy.requests), self.command, self.path)
                    proxy.met[fault] += 1
                size = int(self.headers.get("Content-Length", 0))
                body = self.rfile.read(size // 2)
                if self.command == "PUT":
                    proxy.halfway(self.path)
                body += self.rfile.read(size - size // 2)
                if fault == "busy":
                    self._answer(503, {"Content-Type": "application/xml"}, SLOW_DOWN)
                elif fault == "reset":
                    self._reset()
                else:
                    self._forward(body, fault)

            def _forward(self, body: bytes, fault: str) -> None:
                server = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=60)
                headers = {name: value for name, value in self.headers.items() if name.lower() not in ("connection", "expect")}
                server.request(self.command, self.path, body, headers)
                answer = server.getresponse()
                data = answer.read()
                if fault == "late":
                    time.sleep(proxy.late_s)
                if fault == "lost answer" or (fault == "cut" and not data):
                    self._reset()
                    return
                self._answer(answer.status, dict(answer.getheaders()), data, cut=fault == "cut")
                server.close()

            def _answer(self, status: int, headers: dict[str, str], data: bytes, cut: bool = False) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                        self.send_header(name, value)
                length = headers.get("Content-Length", str(len(data))) if self.command == "HEAD" else str(len(data))
                self.send_header("Content-Length", length)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data[: len(data) // 2] if cut else data)
                if cut:
                    self.wfile.flush()
                    self.close_connection = True

            def _reset(self) -> None:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()
                self.wfile = self.rfile = open("/dev/null", "r+b", buffering=0)  # type: ignore[assignment]  # noqa: SIM115

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass

        return Handler
