"""A simulated Realtime server: offline, strict, and scripted.

    async with Model("restaurant.toml") as model:
        ...  # connect any Realtime client to model.url, or set base_url of the official SDK to it
        assert model.violations == []

It speaks the real server's protocol, refuses the same mistakes in the same words, and records everything:
`model.sessions` holds one `SimulatedSession` per connection, with all that was said, heard, called and truncated.

WebRTC, transcription sessions and images are left out, because telephone calls do not use them. It accepts noise
reduction, the speed of the voice, prompts and truncation settings, without any effect. MCP servers answer from the
script; no connection to them is made.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from phoneagent.sim.model.audio import from_ulaw
from phoneagent.sim.model.config import Json
from phoneagent.sim.model.loopback import LoopbackServer
from phoneagent.sim.model.script import Script
from phoneagent.sim.model.service import ANY, Service, rules_broken
from phoneagent.sim.model.session import SimulatedSession, Watch
from phoneagent.sim.model.setup import Faults, Setup
from phoneagent.sim.model.vad import Vad, default_vad
from phoneagent.sim.speech import Ear, Murmur, Voice

DEFAULT_MODEL = "gpt-realtime-2.1"
MAX_SESSIONS = 1000
"""Sessions whose records are kept; the oldest is dropped first."""

HEALTHY = Faults()
MAX_RENDERED_LINES = 200
"""Rendered lines of speech that are kept for later sessions."""


class Model(LoopbackServer):
    """The simulated server, on 127.0.0.1 while the context is entered.

    `script`: the model's lines, as a `Script`, TOML text or the path of a file; by default built-in small talk.
    `port`: 0 takes a free one. `voice` speaks (default `Murmur`), `ear` understands the caller (without one, hearing
    is scripted), `vad` makes a detector for each session (default: the best installed, at the session's threshold).

    `speed`: how much faster than real time audio is delivered, in deltas of `delta_ms`.
    `think_ms`: the time from `response.created` to the first delta. `session_seconds`: the maximum session duration.
    `api_key`: the key that a client must present where its `service` expects one; None accepts every client.
    `service`: the provider to imitate, from `phoneagent.sim.model.service`; by default one that accepts all clients.
    `watch(session, "in" | "out", event)` sees all events but audio. `faults`: the faults to simulate.
    """

    def __init__(
        self,
        script: Script | str | Path | None = None,
        *,
        port: int = 0,
        voice: Voice | None = None,
        ear: Ear | None = None,
        vad: Callable[[], Vad] | None = None,
        speed: float = 5.0,
        delta_ms: int = 150,
        think_ms: float = 120,
        session_seconds: float = 3600,
        api_key: str | None = None,
        service: Service = ANY,
        faults: Faults = HEALTHY,
        watch: Watch | None = None,
    ) -> None:
        if speed <= 0 or delta_ms < 10:
            raise ValueError(f"speed {speed} must be above 0 and delta_ms {delta_ms} at least 10")
        super().__init__(
            not_running="the simulated model does not run; enter it first: async with Model() as model",
            port=port,
            select_subprotocol=lambda _connection, offered: "realtime" if "realtime" in offered else None,
        )
        self.sessions: list[SimulatedSession] = []
        self.refusals: list[str] = []
        """Handshakes that were refused, one line each."""
        self._violations: list[str] = []
        self._voice: Voice = Murmur() if voice is None else voice
        self._rendered: OrderedDict[str, bytes] = OrderedDict()
        self._changed = asyncio.Event()
        self._api_key = api_key
        self._service = service
        self._watch = watch
        self._setup = Setup(
            script=Script.of(script),
            ear=ear,
            make_vad=default_vad if vad is None else lambda _threshold: vad(),
            voiced=self._voiced,
            speed=speed,
            think_ms=think_ms,
            delta_ms=delta_ms,
            session_seconds=session_seconds,
            faults=faults,
            service=service,
            changed=self._changed.set,
        )

    @property
    def url(self) -> str:
        """The address to connect to: `ws://127.0.0.1:PORT/v1/realtime`. Only while the server runs."""
        return self.origin + self._service.path

    @property
    def violations(self) -> list[str]:
        """Every rule that a client broke, in all sessions."""
        return self._violations + [violation for session in self.sessions for violation in session.violations]

    @property
    def races(self) -> list[str]:
        """Refusals without blame: client and server acted at the same time."""
        return [race for session in self.sessions for race in session.races]

    async def wait_for(self, condition: Callable[[], Any], timeout: float = 10) -> None:
        """Wait until `condition()` is true. It is checked after every event of every session.

        Raises `TimeoutError` after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            self._changed.clear()
            if condition():
                return
            await asyncio.wait_for(self._changed.wait(), deadline - time.monotonic())

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Refuse a handshake with the wrong path or key, as HTTP."""
        url = urlsplit(request.path)
        if (status := self._setup.faults.refuse_status) is not None:
            return self._refuse(status, "server_error", "The server refuses connections, as it was told to.")
        unknown = self._service.named(url) in self._setup.faults.refuse_models
        if (refusal := self._service.refusal(url, request.headers, self._api_key, unknown)) is not None:
            return self._refuse(refusal.status, refusal.code, refusal.message)
        described = self._service.described(url.path)
        return None if described is None else self._describe(described)

    def _describe(self, model: str) -> Response:
        if model in self._setup.faults.refuse_models:
            return self._refuse(404, "model_not_found", f"The model '{model}' does not exist.")
        entry = {"id": model, "object": "model", "created": 1_780_000_000, "owned_by": "system"}
        return _json(200, entry | {"shutdown_date": self._setup.faults.shutdown_date})

    def _refuse(self, status: int, code: str, message: str) -> Response:
        self.refusals.append(f"{status} {code}: {message}")
        self._changed.set()
        kind = "invalid_request_error" if status < 500 else "server_error"
        return _json(status, {"error": {"message": message, "type": kind, "param": None, "code": code}})

    async def _serve(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        target, headers = connection.request.path, connection.request.headers
        url = urlsplit(target)
        self._violations += rules_broken(self._service, target, headers)
        session = SimulatedSession(
            connection,
            self._setup,
            model=self._service.named(url) or DEFAULT_MODEL,
            dialect=self._service.dialect(url, headers),
            query=dict(parse_qsl(url.query)),
            watch=self._watch,
        )
        self.sessions.append(session)
        del self.sessions[:-MAX_SESSIONS]
        self._changed.set()
        await session.serve()

    async def _voiced(self, text: str, audio_format: Json | None = None) -> bytes:
        """Return `text` as speech in a session's format. Rendering may be slow, so it runs in a thread."""
        ulaw = self._rendered.get(text)
        if ulaw is None:
            ulaw = self._rendered[text] = await asyncio.to_thread(self._voice.render, text)
            while len(self._rendered) > MAX_RENDERED_LINES:
                self._rendered.popitem(last=False)
        return ulaw if audio_format is None else from_ulaw(ulaw, audio_format)


def _json(status: int, content: Json) -> Response:
    body = json.dumps(content).encode()
    headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"})
    return Response(status, HTTPStatus(status).phrase, headers, body)


__all__ = ["Faults", "Model", "Script", "SimulatedSession"]
