"""A simulated Realtime server: offline, strict, and scripted or with a brain.

    async with Model("restaurant.toml") as model:
        ...  # connect any Realtime client to model.url, or set base_url of the official SDK to it
        assert model.violations == []

It speaks the real server's protocol, refuses the same mistakes in the same words, and records everything:
`model.sessions` holds one `SimulatedSession` per connection, with all that was said, heard, called and truncated.
With a `dialect` it behaves like another server that speaks that protocol; see `phoneagent.sim.model.standins`.

It issues ephemeral keys, plays sessions that only transcribe, and takes calls by WebRTC (extra `web`). SIP and images
are left out, because calls over Media Streams do not use them; requests for them are refused. It accepts noise
reduction, the speed of the voice and truncation settings, without any effect. MCP servers answer from the script; no
connection to them is made.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from phoneagent.sim.model.audio import from_ulaw
from phoneagent.sim.model.brain import Brain
from phoneagent.sim.model.checks import EventRefused
from phoneagent.sim.model.client_secrets import ClientSecrets
from phoneagent.sim.model.config import TRANSCRIPTION_MODELS, Json
from phoneagent.sim.model.http import HttpConnection, answer, refusal
from phoneagent.sim.model.loopback import LoopbackServer
from phoneagent.sim.model.script import Script
from phoneagent.sim.model.service import ANY, Service, rules_broken, transcribes
from phoneagent.sim.model.session import SimulatedSession, Watch
from phoneagent.sim.model.setup import Faults, Setup
from phoneagent.sim.model.standins import StandIn, stand_in
from phoneagent.sim.model.vad import Vad, default_vad
from phoneagent.sim.model.web_calls import WebRtcCalls, web_answer
from phoneagent.sim.speech import Ear, Murmur, Voice

if TYPE_CHECKING:
    from phoneagent.sim.model.webrtc import WebRtcCall

DEFAULT_MODEL = "gpt-realtime-2.1"
MODELS = (DEFAULT_MODEL, "gpt-realtime-2.1-mini", "gpt-realtime-2", "gpt-realtime-1.5")
MAX_SESSIONS = 1000
"""How many sessions' records are kept; the oldest is dropped first."""

HEALTHY = Faults()
MAX_RENDERED_LINES = 200
"""How many rendered lines of speech are kept for later sessions."""


class Model(LoopbackServer):
    """The simulated server, on 127.0.0.1 while the context is entered.

    `script`: the model's lines, as a `Script`, TOML text or the path of a file; by default built-in small talk.
    `brain`: a language model that answers instead of the script; then only the script's caller lines are used.
    `port`: 0 takes a free one. `voice` speaks (default `Murmur`), `ear` understands the caller (without one, hearing
    is scripted), `vad` makes a detector for each session (default: the best installed, at the session's threshold).

    `speed`: how much faster than real time audio is delivered, in deltas of `delta_ms`.
    `think_ms`: the time from `response.created` to the first delta. `session_seconds`: the maximum session duration.
    `api_key`: the key that a client must present where its `service` expects one; None accepts every client.
    `dialect`: the server to imitate: `openai`, `azure`, `localai`, `xai` and others, see `STAND_INS`; or only its
    handshake, as a `service`. By default a server like OpenAI's that accepts the clients of all providers.
    `tls`: serve `wss://`, with a temporary certificate: `certificate` is the file to trust.
    `watch(session, "in" | "out", event)` sees all events but audio. `faults`: the faults to simulate.
    """

    def __init__(
        self,
        script: Script | str | Path | None = None,
        *,
        brain: Brain | None = None,
        port: int = 0,
        voice: Voice | None = None,
        ear: Ear | None = None,
        vad: Callable[[], Vad] | None = None,
        speed: float = 5.0,
        delta_ms: int = 150,
        think_ms: float = 120,
        session_seconds: float = 3600,
        api_key: str | None = None,
        dialect: str | None = None,
        service: Service | None = None,
        tls: bool = False,
        faults: Faults = HEALTHY,
        watch: Watch | None = None,
    ) -> None:
        if speed <= 0 or delta_ms < 10:
            raise ValueError(f"speed {speed} must be above 0 and delta_ms {delta_ms} at least 10")
        if dialect is not None and service is not None:
            raise ValueError("dialect and service exclude each other: a dialect has its own service")
        super().__init__(
            tls=tls,
            create_connection=HttpConnection,
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
        self._stand_in = StandIn(service=service or ANY) if dialect is None else stand_in(dialect)
        self._service = self._stand_in.service
        self._secrets = ClientSecrets()
        self._web_calls = WebRtcCalls(self._web_session, self._refuse, default_model=DEFAULT_MODEL)
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
            stand_in=self._stand_in,
            changed=self._changed.set,
            brain=brain,
        )

    @property
    def url(self) -> str:
        """The address to connect to: `ws://127.0.0.1:PORT/v1/realtime`. Only while the server runs."""
        return self.origin + self._service.path

    @property
    def base_url(self) -> str:
        """The base address for SDKs: `http://127.0.0.1:PORT/v1`. Only while the server runs."""
        return self.origin.replace("ws", "http", 1) + self._service.base

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

    def _admit(self, connection: ServerConnection, request: Request) -> Response | Awaitable[Response | None] | None:
        """Answer everything except the handshakes of sessions: refusals, models, ephemeral keys."""
        assert isinstance(connection, HttpConnection)
        url, faults = urlsplit(request.path), self._setup.faults
        if faults.refuse_status is not None:
            return self._refuse(
                faults.refuse_status, "server_error", "The server refuses connections, as it was told to."
            )
        below, described = self._service.below(url.path), self._service.described(url.path)
        is_session = url.path in self._service.paths and connection.method == "GET"
        if not is_session and below is None and (described is None or connection.method != "GET"):
            where = f"Invalid URL ({connection.method} {url.path}); sessions are at {self._service.path}."
            return self._refuse(404, "not_found", where)
        if connection.method == "OPTIONS" and below == "calls":
            return web_answer(204, b"")  # the CORS preflight of a page on another site
        secret = self._secrets.find(self._service.keys_offered(url, request.headers))
        as_client = (is_session or below == "calls") and secret is not None
        if (
            self._api_key is not None
            and not as_client
            and not self._service.has_key(url, request.headers, self._api_key)
        ):
            return self._refuse(401, "invalid_api_key", "Incorrect API key provided.")
        if below is not None and below.split("/")[0] == "calls":
            return self._web_calls.answer(connection, below, url, request.headers, secret)
        if below is not None:
            return self._endpoint(connection, below)
        if is_session and self._web_calls.named(url) is not None:
            return None
        if described is not None:
            return self._describe(described) if described else self._list()
        unknown = self._service.named(url) in faults.refuse_models
        chosen = transcribes(url) or secret is not None
        refused = self._service.refusal(url, request.headers, unknown=unknown, chosen=chosen)
        return None if refused is None else self._refuse(refused.status, refused.code, refused.message)

    def _endpoint(self, connection: HttpConnection, name: str) -> Response:
        """Answer a request below the path of sessions."""
        if name in ("sessions", "transcription_sessions"):
            message = "The Realtime Beta API is no longer supported. Please use /v1/realtime/client_secrets."
            return self._refuse(400, "beta_api_shape_disabled", message)
        if name != "client_secrets":
            message = f"This simulated server has no /{name[:80]}: it plays sessions over WebSockets, at {self.url}, "
            return self._refuse(400, "not_supported", message + "and calls by WebRTC, at /calls.")
        if connection.method != "POST":
            return self._refuse(405, "method_not_allowed", f"{connection.method} is not allowed here; send a POST.")
        parameters = connection.parameters()
        if connection.unreadable is not None or parameters is None:
            return self._refuse(400, "invalid_json", connection.unreadable or "The body is not a JSON object.")
        try:
            return answer(200, self._secrets.issue(parameters, default_model=DEFAULT_MODEL))
        except EventRefused as error:
            return self._refuse(400, error.code, str(error), param=error.param)

    def _list(self) -> Response:
        names = [name for name in (*MODELS, *TRANSCRIPTION_MODELS) if name not in self._setup.faults.refuse_models]
        return answer(200, {"object": "list", "data": [self._entry(name) for name in names]})

    def _describe(self, model: str) -> Response:
        if model in self._setup.faults.refuse_models:
            return self._refuse(404, "model_not_found", f"The model '{model}' does not exist.")
        return answer(200, self._entry(model))

    def _entry(self, model: str) -> Json:
        entry = {"id": model, "object": "model", "created": 1_780_000_000, "owned_by": "system"}
        return entry | {"shutdown_date": self._setup.faults.shutdown_date}

    def _refuse(self, status: int, code: str | None, message: str, *, param: str | None = None) -> Response:
        self.refusals.append(f"{status} {code}: {message}")
        self._changed.set()
        return refusal(status, code, message, param=param)

    async def _serve(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        target, headers = connection.request.path, connection.request.headers
        url = urlsplit(target)
        if (web_call := self._web_calls.named(url)) is not None:
            await web_call.join(connection)
            return
        secret = self._secrets.find(self._service.keys_offered(url, headers))
        only_transcribes = secret.transcribes if secret is not None else transcribes(url)
        self._violations += rules_broken(self._service, target, headers, chosen=only_transcribes or secret is not None)
        session = SimulatedSession(
            connection,
            self._setup,
            model=self._service.named(url) or (secret.model if secret else None) or DEFAULT_MODEL,
            dialect=self._service.dialect(url, headers),
            query=dict(parse_qsl(url.query)),
            transcribes=only_transcribes,
            given_session=None if secret is None else secret.configuration,
            watch=self._watch,
        )
        self._keep(session)
        await session.serve()

    def _keep(self, session: SimulatedSession) -> None:
        self.sessions.append(session)
        del self.sessions[:-MAX_SESSIONS]
        self._changed.set()

    def _web_session(self, call: WebRtcCall, model: str | None, given: Json) -> SimulatedSession:
        """Make the session of a call by WebRTC."""
        session = SimulatedSession(
            call,
            self._setup,
            model=model or DEFAULT_MODEL,
            dialect="ga",
            query={},
            transcribes=given.get("type") == "transcription",
            given_session=given,
            watch=self._watch,
        )
        self._keep(session)
        return session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._web_calls.close()
        await super().__aexit__(kind, error, traceback)

    async def _voiced(self, text: str, audio_format: Json | None = None) -> bytes:
        """Return `text` as speech in a session's format. Rendering may be slow, so it runs in a thread."""
        ulaw = self._rendered.get(text)
        if ulaw is None:
            ulaw = self._rendered[text] = await asyncio.to_thread(self._voice.render, text)
            while len(self._rendered) > MAX_RENDERED_LINES:
                self._rendered.popitem(last=False)
        return ulaw if audio_format is None else from_ulaw(ulaw, audio_format)


__all__ = ["Faults", "Model", "Script", "SimulatedSession"]
