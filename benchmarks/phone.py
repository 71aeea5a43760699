"""Twilio's end of a load: signed webhooks and media sockets, a frame every 20 ms, and the echo of marks."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from html import unescape
from time import perf_counter
from urllib.parse import urlencode, urlsplit

from twilio.request_validator import RequestValidator

from benchmarks.call import ACCOUNT_SID, Call
from benchmarks.flow import DOWN_MARK, FRAME_SECONDS, UP, payload_head
from benchmarks.sound import HUSH, VOICE
from benchmarks.wire import CLOSE, CLOSE_NORMALLY, PING, PONG, TEXT, Cache, FrameReader, client_frame, head, masked

HOST = "bench.example"
PUBLIC_URL = f"https://{HOST}"
AUTH_TOKEN = "0123456789abcdef0123456789abcdef"
CALLED = "+15550100000"

_PARAMETER = re.compile(r'<Parameter\s+name="([^"]*)"\s+value="([^"]*)"')


_TAIL_BYTES = len("MZ") + 32 + len('"}')


def _front(number: int, rest: str = HUSH) -> bytes:
    """Return the masked start of a frame, with its head and the numbers in it: all calls share it."""
    text = (
        f'{{"event":"media","sequenceNumber":"{number + 2}","media":{{"track":"inbound","chunk":"{number + 1}",'
        f'"timestamp":"{number * 20 + 20}","payload":"{payload_head(UP, number)}{rest}"}},"streamSid":"'
    ).encode()
    return head(len(text) + _TAIL_BYTES, mask=True) + masked(text)


_FRONTS = Cache(_front)
_LOUD_FRONTS = Cache(partial(_front, rest=VOICE))


class Signer:
    """Signs requests as Twilio does."""

    def __init__(self) -> None:
        self._sign = RequestValidator(AUTH_TOKEN).compute_signature

    def headers(self, url: str, form: Mapping[str, str]) -> dict[str, str]:
        """Return the headers of a signed request to this public URL."""
        return {"Host": HOST, "X-Twilio-Signature": self._sign(url, dict(form))}


def form_of(call: Call, status: str) -> dict[str, str]:
    """Return the parameters of a webhook."""
    return {
        "CallSid": call.sid,
        "AccountSid": ACCOUNT_SID,
        "From": call.number,
        "To": CALLED,
        "CallStatus": status,
        "Direction": "inbound",
        "ApiVersion": "2010-04-01",
        "CallerCountry": "US",
    }


class Request(asyncio.Protocol):
    """One HTTP request on its own connection, as Twilio makes them. `answer` gets status and body."""

    def __init__(self, data: bytes, written: Callable[[float], None]) -> None:
        self._data = data
        self._written = written
        self._received = b""
        self.answer: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._written(perf_counter())
        transport.write(self._data)

    def data_received(self, data: bytes) -> None:
        self._received += data

    def connection_lost(self, exc: Exception | None) -> None:
        if self.answer.done():
            return
        head_bytes, _, body = self._received.partition(b"\r\n\r\n")
        words = head_bytes.split(b" ", 2)
        if len(words) < 2 or not words[1].isdigit():
            self.answer.set_exception(ConnectionError("the server closed the connection without an answer"))
        else:
            self.answer.set_result((int(words[1]), body.decode("utf-8", "replace")))


async def post(
    address: tuple[str, int],
    path: str,
    headers: Mapping[str, str],
    form: Mapping[str, str],
    written: Callable[[float], None] = lambda now: None,
) -> tuple[int, str]:
    """Send a form; return status and body. `written` gets the moment when the request was sent.

    Raises:
        OSError: no connection, or no answer.
    """
    body = urlencode(form).encode()
    lines = [f"POST {path} HTTP/1.1", "Connection: close", f"Content-Length: {len(body)}"]
    lines += ["Content-Type: application/x-www-form-urlencoded; charset=UTF-8", "User-Agent: TwilioProxy/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    data = "\r\n".join([*lines, "", ""]).encode() + body
    loop = asyncio.get_running_loop()
    _, request = await loop.create_connection(lambda: Request(data, written), *address)
    return await request.answer


def stream_of(twiml: str) -> tuple[str, dict[str, str]]:
    """Return the URL of the stream that a TwiML document connects to, and its parameters.

    Raises:
        ValueError: it connects to no stream.
    """
    found = re.search(r'<Stream\b[^>]*\burl="([^"]+)"', twiml)
    if found is None:
        raise ValueError(f"the webhook's answer connects to no stream: {twiml[:200]}")
    return unescape(found[1]), {unescape(name): unescape(value) for name, value in _PARAMETER.findall(twiml)}


class Phone(asyncio.Protocol):
    """The media socket of one call, from Twilio's end."""

    def __init__(self, call: Call, url: str, parameters: Mapping[str, str], signer: Signer) -> None:
        self._call = call
        self._url = url
        self._parameters = dict(parameters)
        self._signer = signer
        self._reader = FrameReader()
        self._handshake: bytes | None = b""
        self._marks: deque[tuple[float, str]] = deque()
        self._played_until = 0.0
        self._sequence = 1
        tail = f'{call.stream_sid}"}}'.encode()
        assert len(tail) == _TAIL_BYTES
        self._tails = [masked(tail, turn) for turn in range(4)]  # by the number of bytes before it, modulo 4
        self._transport: asyncio.Transport
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        headers = {
            **self._signer.headers(self._url, {}),
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": key,
            "Sec-WebSocket-Version": "13",
            "User-Agent": "Twilio.TmeWs/1.0",
        }
        lines = [f"GET {urlsplit(self._url).path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        transport.write("\r\n".join([*lines, "", ""]).encode())

    def connection_lost(self, exc: Exception | None) -> None:
        self._call.fail("the bridge closed the media socket")
        self._marks.clear()
        if not self.opened.done():
            self.opened.set_exception(ConnectionError("the media socket was closed during its handshake"))
        self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._handshake is not None:
            self._handshake += data
            if (at := self._handshake.find(b"\r\n\r\n")) < 0:
                return
            answer, data = self._handshake[:at], self._handshake[at + 4 :]
            self._handshake = None
            self._open(answer)
        now = perf_counter()
        for opcode, payload in self._reader.feed(data):
            if opcode == TEXT:
                at = payload.find(DOWN_MARK)
                if at >= 0:
                    self._hear(int(payload[at + 4 : at + 12]), now)
                else:
                    self._obey(payload, now)
            elif opcode == PING:
                self._transport.write(client_frame(payload, PONG))
            elif opcode == CLOSE:
                self._transport.write(client_frame(payload, CLOSE))
                self._transport.close()

    def _open(self, answer: bytes) -> None:
        if b" 101 " not in answer[:20]:
            self.opened.set_exception(ConnectionError(f"the media socket was refused: {answer[:40]!r}"))
            self._transport.close()
            return
        call = self._call
        start = {
            "accountSid": ACCOUNT_SID,
            "streamSid": call.stream_sid,
            "callSid": call.sid,
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            "customParameters": self._parameters,
        }
        self._write({"event": "connected", "protocol": "Call", "version": "1.0.0"})
        self._write({"event": "start", "sequenceNumber": "1", "start": start, "streamSid": call.stream_sid})
        self.tick(perf_counter())
        self.opened.set_result(None)

    # --- in ---

    def _hear(self, number: int, now: float) -> None:
        call = self._call
        call.down.receive(number, now)
        self._played_until = max(now, self._played_until) + FRAME_SECONDS
        if call.greeted_at is None:
            call.greeted_at = now
        if call.resumed_at is None and call.speech_at is None:
            call.resumed_at = now

    def _obey(self, payload: bytes, now: float) -> None:
        message = json.loads(payload)
        if message["event"] == "mark":
            self._marks.append((self._played_until, message["mark"]["name"]))
            self._echo(now)
        elif message["event"] == "clear":
            call = self._call
            call.cleared(now)
            self._played_until = now
            self._marks = deque((now, name) for _, name in self._marks)
            self._echo(now)
        else:
            self._call.fail(f"the bridge sent the event {message['event']!r}")

    def _echo(self, now: float) -> None:
        while self._marks and self._marks[0][0] <= now:
            self._sequence += 1
            self._write(
                {
                    "event": "mark",
                    "sequenceNumber": str(self._sequence),
                    "streamSid": self._call.stream_sid,
                    "mark": {"name": self._marks.popleft()[1]},
                }
            )

    # --- out ---

    def tick(self, now: float) -> None:
        """Send the caller's next 20 ms, and the marks whose audio has been played."""
        if self._transport.is_closing():
            return  # the call has its fault
        fronts = _LOUD_FRONTS if self._call.speaking else _FRONTS
        front = fronts[self._call.up.send(now)]
        self._transport.write(front + self._tails[len(front) % 4])  # the head is eight bytes long
        if self._marks:
            self._echo(now)

    def _write(self, message: object) -> None:
        self._transport.write(client_frame(json.dumps(message, separators=(",", ":")).encode()))

    def abort(self) -> None:
        """Cut the connection, if it is still there."""
        self._transport.abort()

    def hang_up(self) -> None:
        """End the stream as a caller's hang-up does."""
        call = self._call
        call.over = True
        stop = {"accountSid": ACCOUNT_SID, "callSid": call.sid}
        self._sequence += 1
        self._write(
            {"event": "stop", "sequenceNumber": str(self._sequence), "stop": stop, "streamSid": call.stream_sid}
        )
        self._transport.write(client_frame(CLOSE_NORMALLY, CLOSE))
