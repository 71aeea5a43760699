"""The app: Twilio's webhook, the media socket of each call, and health."""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from importlib import resources
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.datastructures import ImmutableMultiDict
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from . import settings as settings_
from . import telemetry
from .agent import Agent, Call
from .endpoint import Endpoint, ModelSession, open_session
from .errors import (
    ConfigurationError,
    EndpointError,
    EndpointRefused,
    EndpointUnreachable,
    ProtocolError,
    RequestRefused,
)
from .events import CallStarted, Event
from .hooks import Hooks
from .prepared import Prepared, discard
from .protocol import mediastream
from .protocol.bridge import Bridge
from .protocol.policy import Policy
from .session import Session
from .settings import Settings
from .store import Store
from .telephony import SIGNATURE_HEADER, MediaTokens, Signatures, ask_again, connect_stream, turn_away

log = logging.getLogger("phoneagent.server")

VOICE_PATH = "/twilio/voice"
STATUS_PATH = "/twilio/status"
MEDIA_PATH = "/twilio/media/"

MAX_BODY_BYTES = 64 * 1024
MAX_FIELDS = 500
START_SECONDS = 10.0
"""How long a media socket may take to send `start`."""

MAX_BEFORE_START = 20
"""How many messages may come before `start`."""

INSTRUCTIONS_SECONDS = 5.0
"""How long the agent's own function may take to write the instructions: the caller waits in silence."""

MAX_PREPARED = 200
"""So many callers may be between webhook and socket; further sessions are opened at the socket."""

MAX_ASKED_AGAIN = 8
"""How often a new call is sent round while this process drains, a second each time."""

_CALL_SID = re.compile(r"CA[0-9a-fA-F]{32}")
_Hook = TypeVar("_Hook", bound=Callable[[Any], Any])


class PhoneApp(Starlette):
    """A Starlette app that answers Twilio's calls with an agent.

    Routes: `POST|GET /twilio/voice` (the number's voice webhook), `POST /twilio/status` (its status callback), `WS
    /twilio/media/{token}`, `GET /healthz`, `GET /readyz` (503 while draining), `GET /metrics` (with
    PHONEAGENT_API_TOKEN). It also mounts into another Starlette or FastAPI app; PUBLIC_URL then has the path it is
    mounted at. Settings are read from the environment when the server starts, or at the first request of a mounted app.
    """

    def __init__(
        self,
        agent: Agent,
        *,
        settings: Settings | None = None,
        endpoint: Endpoint | None = None,
        store: Store | None = None,
    ) -> None:
        super().__init__(
            routes=[
                Route(VOICE_PATH, self._voice, methods=["GET", "POST"]),
                Route(STATUS_PATH, self._status, methods=["POST"]),
                WebSocketRoute(MEDIA_PATH + "{token}", self._media),
                Route("/healthz", self._healthz),
                Route("/readyz", self._readyz),
                Route("/metrics", self._show_metrics),
            ],
            lifespan=self._lifespan,
        )
        self.router.redirect_slashes = False  # Twilio signs the path as it is
        self.agent = agent
        self.calls: dict[str, Call] = {}
        """The live calls by CallSid."""
        self.draining = False
        """Whether the process is about to end: new calls are sent to the next one."""
        self._given_settings = settings
        self._given_endpoint = endpoint
        self._given_store = store
        self._hooks = Hooks()
        self._metrics = telemetry.Metrics()
        self._prepared: dict[str, Prepared] = {}
        telemetry.hide_secrets()

    @property
    def coming(self) -> int:
        """How many calls were answered, and their media socket is still to come."""
        return len(self._prepared)

    def on(self, kinds: Any) -> Callable[[_Hook], _Hook]:
        """Register a hook: `@app.on(CallStarted | CallEnded)`, plain or async, called with each such event.

        Hooks run off the call's path, in order, one at a time for each call, within 10 s each; a failure is logged.
        """

        def register(hook: _Hook) -> _Hook:
            self._hooks.add(kinds, hook)
            return hook

        return register

    # --- what is made from the settings, once ---

    @cached_property
    def settings(self) -> Settings:
        """The settings.

        Raises:
            ConfigurationError: something is missing or malformed.
        """
        return self._given_settings or settings_.load()

    @cached_property
    def _endpoint(self) -> Endpoint:
        return self._given_endpoint or Endpoint.from_settings(self.settings)

    @cached_property
    def _store(self) -> Store | None:
        """Where calls are recorded: DATABASE_URL; with settings from code, only where code says."""
        if self._given_store is not None or self._given_settings is not None:
            return self._given_store
        return Store.from_settings(self.settings)

    @cached_property
    def _signatures(self) -> Signatures:
        return Signatures(self.settings.twilio_auth_token.get_secret_value())

    @cached_property
    def _tokens(self) -> MediaTokens:
        return MediaTokens(self.settings.twilio_auth_token.get_secret_value())

    @cached_property
    def _policy(self) -> Policy:
        apology = resources.files(__package__).joinpath("apology.ulaw").read_bytes()
        return Policy(
            greeting=self.agent.greeting,
            greeting_interruptible=self.agent.greeting_interruptible,
            barge_in=self.agent.barge_in,
            server_answers=self.agent.barge_in,
            apology=base64.b64encode(apology).decode(),
            max_call_seconds=self.settings.max_call_seconds,
        )

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        _ = self.settings, self._store  # fail at the start rather than at the first call
        yield
        for prepared in list(self._prepared.values()):
            await prepared.close()
        if self._store is not None:
            await self._store.close()

    # --- the webhook ---

    async def _healthz(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "calls": len(self.calls)})

    async def _readyz(self, request: Request) -> Response:
        if self.draining:
            return JSONResponse({"status": "draining", "calls": len(self.calls)}, status_code=503)
        return JSONResponse({"status": "ok"})

    async def _show_metrics(self, request: Request) -> Response:
        token = self.settings.api_token
        if token is None:
            return Response(status_code=404)
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, f"Bearer {token.get_secret_value()}".encode()):
            return Response("give PHONEAGENT_API_TOKEN as a bearer token\n", 401, {"WWW-Authenticate": "Bearer"})
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")

    def _turned_away(self, call_sid: str, form: ImmutableMultiDict[str, str]) -> str | None:
        """Return the answer to a call that cannot be taken, None if it can."""
        if self.draining:
            asked = int(again) if (again := str(form.get("again", "0"))).isdecimal() and len(again) < 3 else 0
            if asked < MAX_ASKED_AGAIN:
                return ask_again(f"{self.settings.public_url}{VOICE_PATH}?again={asked + 1}")
        elif call_sid in self._prepared or len(self.calls) + len(self._prepared) < self.settings.max_calls:
            return None
        self._metrics.turned_away("draining" if self.draining else "full")
        log.warning("call turned away: %s", "draining" if self.draining else "MAX_CALLS are live")
        return turn_away(self.settings.fallback_number)

    async def _voice(self, request: Request) -> Response:
        form = await self._verified_form(request, VOICE_PATH)
        if isinstance(form, Response):
            return form
        call_sid = str(form.get("CallSid", ""))
        if not _CALL_SID.fullmatch(call_sid):
            log.warning("webhook refused: its CallSid is not CA and 32 hexadecimal digits")
            return Response("CallSid is missing\n", status_code=400, media_type="text/plain")
        refusal = self._turned_away(call_sid, form)
        if refusal is not None:
            return Response(refusal, media_type="application/xml")
        parameters = {
            "caller": str(form.get("From", "")),
            "called": str(form.get("To", "")),
            "direction": str(form.get("Direction", "inbound")),
        }
        self._prepare(_call(call_sid, parameters))
        public = "wss" + self.settings.public_url.removeprefix("https")
        url = f"{public}{MEDIA_PATH}{self._tokens.issue(call_sid, time.time())}"
        return Response(connect_stream(url, parameters), media_type="application/xml")

    async def _status(self, request: Request) -> Response:
        form = await self._verified_form(request, STATUS_PATH)
        if isinstance(form, Response):
            return form
        log.debug("%s is %s", form.get("CallSid"), form.get("CallStatus"), extra={"call_sid": form.get("CallSid")})
        return Response(status_code=204)

    async def _verified_form(self, request: Request, path: str) -> ImmutableMultiDict[str, str] | Response:
        """Return the parameters of a webhook that Twilio has signed, or the refusal to answer any other with."""
        try:
            return await self._signed_form(request, path)
        except RequestRefused as refused:
            self._metrics.refused("webhook")
            log.warning("webhook refused: %s", refused)
            return Response("forbidden\n", status_code=403, media_type="text/plain")
        except ConfigurationError as error:
            log.error("webhook refused, the settings are incomplete:\n%s", error)
            return Response("not configured\n", status_code=500, media_type="text/plain")

    async def _signed_form(self, request: Request, path: str) -> ImmutableMultiDict[str, str]:
        body = b""
        with suppress(ClientDisconnect):  # half a body has no valid signature
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise RequestRefused(f"a webhook with more than {MAX_BODY_BYTES} bytes")
        try:
            form = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
            query = parse_qsl(request.url.query, keep_blank_values=True, max_num_fields=MAX_FIELDS)
        except ValueError:
            raise RequestRefused("a webhook whose parameters cannot be read") from None
        if request.method != "POST":
            form = []
        signed = ImmutableMultiDict(form)
        self._signatures.verify(
            self._public_url("https", path, request.scope), signed, request.headers.get(SIGNATURE_HEADER)
        )
        params = ImmutableMultiDict([*query, *form])
        if params.get("AccountSid") != self.settings.twilio_account_sid:
            raise RequestRefused("a webhook of another account than TWILIO_ACCOUNT_SID")
        return params

    def _public_url(self, scheme: str, path: str, scope: Any) -> str:
        """Return the address Twilio asked for: PUBLIC_URL, the path inside this app and the raw query.

        Host and X-Forwarded-* are what the client says, so they are never used.
        """
        query = scope["query_string"].decode("latin-1")
        public = scheme + self.settings.public_url.removeprefix("https")
        return f"{public}{path}?{query}" if query else f"{public}{path}"

    def _prepare(self, call: Call) -> None:
        """Open the model session while Twilio opens the media socket, if that socket will come to this process."""
        known = call.sid in self._prepared or call.sid in self.calls
        if known or self.settings.web_concurrency > 1 or len(self._prepared) >= MAX_PREPARED:
            return
        self._prepared[call.sid] = Prepared(call, asyncio.create_task(self._open(call)), self._prepared)

    async def _open(self, call: Call) -> ModelSession:
        """Open the call's model session. Whatever fails, the caller hears the apology: it is an EndpointError."""
        try:
            async with asyncio.timeout(INSTRUCTIONS_SECONDS) as limit:
                instructions = await self.agent.instructions_for(call)
        except Exception as error:  # a user's function
            if limit.expired():
                raise EndpointRefused(f"the agent's instructions took longer than {INSTRUCTIONS_SECONDS:g} s") from None
            log.exception("the agent's instructions failed", extra={"call_sid": call.sid})
            raise EndpointRefused(f"the agent's instructions failed: {type(error).__name__}") from error
        try:
            return await open_session(self._endpoint, self.agent.session(instructions))
        except EndpointError:
            raise
        except Exception as error:  # what nobody foresaw: a proxy of the environment, a session that is not JSON
            log.exception("the model session could not be opened", extra={"call_sid": call.sid})
            raise EndpointRefused(f"the model session could not be opened: {type(error).__name__}") from error

    # --- the media socket ---

    async def _media(self, websocket: WebSocket) -> None:
        token = websocket.path_params["token"]
        try:
            url = self._public_url("wss", MEDIA_PATH + token, websocket.scope)
            self._verify_socket(url, websocket)
            call_sid = self._tokens.redeem(token, time.time())
        except (RequestRefused, ConfigurationError) as refused:
            self._metrics.refused("socket")
            log.warning("media socket refused: %s", telemetry.hidden(str(refused)))
            await websocket.close()  # before accept: HTTP 403
            return
        await websocket.accept()
        socket = _TwilioSocket(websocket)
        try:
            start = await self._read_start(socket, call_sid)
        except (ProtocolError, TimeoutError) as error:
            log.warning("media socket closed: %s", error, extra={"call_sid": call_sid})
            await socket.close()
            return
        await self._run(start, socket)

    def _verify_socket(self, url: str, websocket: WebSocket) -> None:
        self._signatures.verify(url, {}, websocket.headers.get(SIGNATURE_HEADER))

    async def _read_start(self, socket: _TwilioSocket, call_sid: str) -> mediastream.Start:
        """Return the `start` of the call that the token was made for; anything else ends the socket."""
        try:
            async with asyncio.timeout(START_SECONDS):
                for _ in range(MAX_BEFORE_START):
                    text = await socket.receive()
                    if text is None:
                        raise ProtocolError("it closed before `start`")
                    if isinstance(text, bytes):
                        continue
                    try:
                        message = mediastream.decode(text)
                    except ProtocolError as error:
                        log.warning("%s", error, extra={"call_sid": call_sid})
                        continue
                    if isinstance(message, mediastream.Start):
                        return self._checked(message, call_sid)
        except TimeoutError:
            raise ProtocolError(f"no `start` within {START_SECONDS:g} s") from None
        raise ProtocolError(f"no `start` among its first {MAX_BEFORE_START} messages")

    def _checked(self, message: mediastream.Start, call_sid: str) -> mediastream.Start:
        details = message.start
        if details.call_sid != call_sid or details.account_sid != self.settings.twilio_account_sid:
            raise ProtocolError("its `start` is of another call than its token")
        if details.media_format != mediastream.MediaFormat():
            raise ProtocolError(f"its audio is {details.media_format}, not µ-law at 8 kHz: remove audioFormat")
        if call_sid in self.calls:
            raise ProtocolError("the call has a media socket already")
        return message

    async def _run(self, start: mediastream.Start, socket: _TwilioSocket) -> None:
        call_sid = start.start.call_sid
        prepared = self._prepared.get(call_sid)
        if prepared is not None:
            prepared.claim()
            call, opening = prepared.call, prepared.opening
            if opening.done() and isinstance(opening.exception(), EndpointUnreachable):
                opening = asyncio.create_task(self._open(call))  # a moment has passed, and it may work now
        else:
            call = _call(call_sid, start.start.custom_parameters)
            opening = asyncio.create_task(self._open(call))
        follower = self._hooks.follow()

        def emit(event: Event) -> None:
            telemetry.log_event(event)
            self._metrics.tell(event)
            if self._store is not None:
                self._store.tell(event)
            follower.tell(event)

        async def open_model() -> ModelSession:
            return await opening

        session = Session(
            call=call,
            agent=self.agent,
            bridge=Bridge(self._policy, call_sid=call_sid),
            caller=socket,
            open_model=open_model,
            emit=emit,
            model_events=self._hooks.wants_model_events,
        )
        emit(
            CallStarted(
                call_sid=call_sid,
                stream_sid=start.stream_sid,
                caller=call.caller,
                called=call.called,
                direction=call.direction,
            )
        )
        self.calls[call_sid] = call
        try:
            await session.run(start)
        finally:
            del self.calls[call_sid]
            await discard(opening)
            await follower.close()


def _call(call_sid: str, parameters: Any) -> Call:
    return Call(
        sid=call_sid,
        caller=parameters.get("caller") or None,
        called=parameters.get("called") or None,
        direction=parameters.get("direction") or "inbound",
        started_at=datetime.now(UTC),
    )


class _TwilioSocket:
    """The media socket as the session sees it."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    async def receive(self) -> str | bytes | None:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            return None
        text: str | bytes | None = message.get("text")
        return message.get("bytes", b"") if text is None else text

    async def send(self, text: str) -> None:
        try:
            await self._websocket.send({"type": "websocket.send", "text": text})
        except (WebSocketDisconnect, RuntimeError) as error:
            raise ConnectionError("the media socket is closed") from error

    async def close(self) -> None:
        if self._websocket.application_state is WebSocketState.CONNECTED:
            with suppress(WebSocketDisconnect, RuntimeError, OSError):  # Twilio was faster
                await self._websocket.close(1000)
