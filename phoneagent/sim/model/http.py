"""The HTTP side of the simulated Realtime server: requests with a body, and answers in JSON.

The WebSocket library reads handshakes, so it accepts only GET without a body. `HttpConnection` reads any other request
itself and passes it on as a GET; `method` and `body` keep the original.
"""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Response

from phoneagent.sim.model.config import Json

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 1 << 20

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*(?=\r\n)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r]*(?=\r\n)", re.IGNORECASE)


class HttpConnection(ServerConnection):
    """A connection whose first request may be of any method, with a body of at most `MAX_BODY_BYTES`.

    `unreadable` says why the body was not read: it is too long, or comes in chunks.
    """

    method = "GET"
    body = b""
    unreadable: str | None = None
    _received = b""
    _read = False

    def data_received(self, data: bytes) -> None:
        if self._read:
            super().data_received(data)
            return
        self._received += data
        if self._received.startswith(b"GET "[: len(self._received)]):
            if len(self._received) >= 4:
                self._pass(self._received)
            return
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            if len(head) > MAX_HEAD_BYTES:
                self._pass(self._received)
            return
        length = self._length(head + b"\r\n")
        if len(body) >= length:
            self.body = body[:length]
            method, _, rest = _CHUNKED.sub(b"", _LENGTH.sub(b"", head + b"\r\n")).partition(b" ")
            self.method = method.decode("ascii", "replace")
            self._pass(b"GET " + rest + b"\r\n")

    def _length(self, head: bytes) -> int:
        """Return how many bytes of the body to wait for."""
        found = _LENGTH.search(head)
        length = int(found[1]) if found else 0
        if _CHUNKED.search(head):
            self.unreadable = "a body in chunks is not read; send it with a Content-Length"
        elif length > MAX_BODY_BYTES:
            self.unreadable = f"a body of {length} bytes is not read; at most {MAX_BODY_BYTES} are"
        return 0 if self.unreadable else length

    def _pass(self, data: bytes) -> None:
        self._read, self._received = True, b""
        super().data_received(data)

    def parameters(self) -> Json | None:
        """Return the body as a JSON object, {} if there is none, None if it is something else."""
        try:
            value: Any = json.loads(self.body) if self.body.strip() else {}
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None


def answer(status: int, content: Json) -> Response:
    """Return a response with JSON."""
    body = json.dumps(content).encode()
    headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"})
    return Response(status, HTTPStatus(status).phrase, headers, body)


def refusal(status: int, code: str | None, message: str, *, param: str | None = None) -> Response:
    """Return a refusal in the API's shape."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return answer(status, {"error": {"message": message, "type": kind, "param": param, "code": code}})
