"""The app: Twilio's webhooks, the media socket of each call, and health."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property, partial
from typing import Any, TypeAlias, TypeVar

from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from phoneagent import settings as settings_
from phoneagent import telemetry
from phoneagent.agent.agent import Agent, Answerer, check_handoffs
from phoneagent.agent.call import Call
from phoneagent.billing.prices import PRICES, Price
from phoneagent.billing.ratelimits import RateLimitReserve
from phoneagent.calls.calls import Calls
from phoneagent.calls.hooks import Hooks
from phoneagent.calls.journal import CallJournal
from phoneagent.errors import ConfigurationError, DefinitionError
from phoneagent.events import Event, RateLimitsUpdated
from phoneagent.model.connection import Endpoint
from phoneagent.settings import Settings
from phoneagent.store import Store
from phoneagent.twilio.rest import LiveCalls
from phoneagent.twilio.verification import Verifier
from phoneagent.webhooks import AFTER_PATH, MEDIA_PATH, STATUS_PATH, MediaSockets, Webhooks
from phoneagent.webhooks import VOICE_PATH as VOICE_PATH  # where a number's webhook points

log = logging.getLogger("phoneagent.server")

Observer: TypeAlias = Callable[[Event, str], None]
"""A function that gets an event, and the sid of the media stream that the event belongs to."""

_Hook = TypeVar("_Hook", bound=Callable[[Any], Any])


class PhoneApp(Starlette):
    """A Starlette app that answers Twilio's calls with an agent.

    `agent` may be a function of the call, plain or async, that returns one: by the called number, say, so that one app
    serves many. It is asked once for each call, and once more where a call goes on in another process.

    Routes: `POST|GET /twilio/voice` (the number's voice webhook), `POST /twilio/status` (its status callback), `POST
    /twilio/after` (how a call goes on whose media stream has ended), `WS /twilio/media/{token}`, `GET /healthz`, `GET
    /readyz` (503 while draining), `GET /metrics` (with PHONEAGENT_API_TOKEN). It also mounts into another Starlette or
    FastAPI app; PUBLIC_URL then has the path it is mounted at. Settings are read from the environment when the server
    starts, or at the first request of a mounted app.

    `prices` (by model) go before those of the settings, and those before the built-in table.

    Of several endpoints the first that gives a session is taken, also in the middle of a call whose session was lost.

    With settings given in code and no `store`, nothing is recorded, and a call ends when its media stream does.
    """

    def __init__(
        self,
        agent: Answerer,
        *,
        settings: Settings | None = None,
        endpoint: Endpoint | None = None,
        endpoints: Sequence[Endpoint] = (),
        store: Store | None = None,
        prices: Mapping[str, Price] | None = None,
    ) -> None:
        if not isinstance(agent, Agent) and not callable(agent):
            raise DefinitionError(f"PhoneApp has agent={agent!r}: give it an Agent, or a function that returns one")
        for each in (*(() if endpoint is None else (endpoint,)), *endpoints):
            if not isinstance(each, Endpoint):  # its address may hold a key: it is not repeated
                raise DefinitionError(
                    f"PhoneApp has a {type(each).__name__} for an endpoint: write Endpoint.gateway(…)"
                )
        if endpoint is not None and endpoints:
            raise DefinitionError("PhoneApp has endpoint= and endpoints=: name them all in endpoints=, the first first")
        super().__init__(
            routes=[
                Route(VOICE_PATH, partial(self._answer_webhook, VOICE_PATH), methods=["GET", "POST"]),
                Route(AFTER_PATH, partial(self._answer_webhook, AFTER_PATH), methods=["POST"]),
                Route(STATUS_PATH, partial(self._answer_webhook, STATUS_PATH), methods=["POST"]),
                WebSocketRoute(MEDIA_PATH + "{token}", self._run_media_socket),
                Route("/healthz", self._healthz),
                Route("/readyz", self._readyz),
                Route("/metrics", self._show_metrics),
            ],
            lifespan=self._lifespan,
        )
        self.router.redirect_slashes = False  # Twilio signs the path as it is
        if isinstance(agent, Agent):
            check_handoffs(agent)  # to nobody, or to one of two: now rather than in a call
        self.agent = agent
        self.calls: dict[str, Call] = {}
        """The live calls by CallSid."""
        self.draining = False
        """Whether the process is about to end: new calls are sent to the next one."""
        self._given_settings = settings
        self.endpoints: Sequence[Endpoint] = list(endpoints) if endpoint is None else [endpoint]
        """Those that code brings, in the order in which they are asked; without any, `endpoint` is of the settings."""
        self._given_store = store
        self._given_prices = prices or {}
        self._hooks = Hooks()
        self._metrics = telemetry.Metrics()
        telemetry.hide_secrets()

    @property
    def coming(self) -> int:
        """How many calls were answered, and their media socket is still to come."""
        return self._calls.coming

    @property
    def unfinished(self) -> int:
        """How many media streams have something left: the call itself, its tools, or its hooks."""
        return self._calls.unfinished

    def on(self, kinds: Any) -> Callable[[_Hook], _Hook]:
        """Register a hook: `@app.on(CallStarted | CallEnded)`, plain or async, called with each such event.

        Hooks run off the call's path, in order, one at a time for each call, within 10 s each; a failure is logged.
        """

        def register(hook: _Hook) -> _Hook:
            self._hooks.add(kinds, hook)
            return hook

        return register

    # --- handing calls over ---

    @property
    def hands_over(self) -> bool:
        """Whether calls can go on in another process: it takes a store that both of them use."""
        return self._journal is not None

    def hand_over(self, reason: str) -> None:
        """Let every call go on in another process, from the first moment on at which its caller does not notice."""
        self._calls.hand_over(reason)

    def hand_over_now(self, call_sid: str, reason: str) -> None:
        """Let a call go on in another process at once."""
        self._calls.hand_over_now(call_sid, reason)

    # --- what is made from the settings, once ---

    @cached_property
    def settings(self) -> Settings:
        """The settings.

        Raises:
            ConfigurationError: something is missing or malformed.
        """
        return self._given_settings or settings_.load({"endpoint_in_code": True} if self.endpoints else None)

    @cached_property
    def endpoint(self) -> Endpoint:
        """Where model sessions are opened: the endpoint given in code, else the one of the settings.

        Raises:
            ConfigurationError: something is missing or malformed.
        """
        return self.endpoints[0] if self.endpoints else Endpoint.from_settings(self.settings)

    @cached_property
    def _store(self) -> Store | None:
        """Where calls are recorded: DATABASE_URL; with settings from code, only where code says."""
        if self._given_store is not None or self._given_settings is not None:
            return self._given_store
        return Store.from_settings(self.settings)

    @cached_property
    def _verifier(self) -> Verifier:
        return Verifier(self.settings, self._store.claim if self._store is not None else None)

    @cached_property
    def _journal(self) -> CallJournal | None:
        if self._store is None:
            return None
        settings, live_calls = self.settings, None
        if not settings.insecure or settings.twilio_api_url is not None:  # an account that is made up has no calls
            live_calls = LiveCalls(
                settings.twilio_account_sid,
                settings.auth_tokens[0],
                api_url=settings.twilio_api_url,
                backoff_seconds=0.2,
            )
        return CallJournal(self._store, live_calls, fallback_number=settings.fallback_number)

    @cached_property
    def _reserve(self) -> RateLimitReserve:
        return RateLimitReserve(self.settings.rate_limit_reserve)

    @cached_property
    def _webhooks(self) -> Webhooks:
        return Webhooks(
            self.settings,
            verifier=self._verifier,
            calls=self._calls,
            journal=self._journal,
            reserve=self._reserve,
            metrics=self._metrics,
            draining=lambda: self.draining,
        )

    @cached_property
    def _media_sockets(self) -> MediaSockets:
        return MediaSockets(
            verifier=self._verifier,
            calls=self._calls,
            journal=self._journal,
            metrics=self._metrics,
            account_sid=None if self.settings.insecure else self.settings.twilio_account_sid,
        )

    @cached_property
    def _calls(self) -> Calls:
        return Calls(
            self.agent,
            self.endpoints or [self.endpoint],
            calls=self.calls,
            hooks=self._hooks,
            emit=self._emit,
            journal=self._journal,
            measure=self._metrics.bridged,
            keep_state=self._store.keep_state if self._store is not None else None,
            max_call_seconds=self.settings.max_call_seconds,
            max_call_cost=self.settings.max_call_cost,
            prices={**PRICES, **self.settings.prices, **self._given_prices},
        )

    @cached_property
    def _observers(self) -> list[Observer]:
        """What sees each event of each call, in this order. An observer must not block: the call waits for it."""
        settings, metrics, reserve, store = self.settings, self._metrics, self._reserve, self._store

        def log_event(event: Event, stream_sid: str) -> None:
            telemetry.log_event(event, pii=settings.log_pii)

        def count(event: Event, stream_sid: str) -> None:
            metrics.tell(event)

        def update_reserve(event: Event, stream_sid: str) -> None:
            if isinstance(event, RateLimitsUpdated):
                reserve.update(event, time.monotonic())

        def record(event: Event, stream_sid: str) -> None:
            if store is not None:
                store.tell(event, stream_sid=stream_sid)

        return [log_event, count, update_reserve, record]

    def _emit(self, event: Event, stream_sid: str) -> None:
        for observe in self._observers:
            observe(event, stream_sid)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        _ = self._webhooks  # fail at the start rather than at the first call
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(telemetry.watch_loop(self._metrics))]
        if isinstance(self.agent, Agent):
            tasks.append(asyncio.create_task(self.agent.open()))  # what its calls need and takes long to start
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(self.agent, Agent):
            await self.agent.close()
        await self._calls.close()
        if self._store is not None:
            await self._store.close()

    # --- health ---

    async def _healthz(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "calls": len(self.calls)})

    async def _readyz(self, request: Request) -> Response:
        if self.draining:
            return JSONResponse({"status": "draining", "calls": len(self.calls)}, status_code=503)
        return JSONResponse({"status": "ok"})

    async def _show_metrics(self, request: Request) -> Response:
        if (refusal := refuse_without_token(request, self.settings.api_token)) is not None:
            return refusal
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")

    # --- Twilio's requests ---
    # A mounted app gets no lifespan, so it may find out only here that its settings are incomplete.

    async def _answer_webhook(self, path: str, request: Request) -> Response:
        try:
            webhooks = self._webhooks
        except ConfigurationError as error:
            log.error("webhook refused, the settings are incomplete:\n%s", error)
            return Response("not configured\n", status_code=500, media_type="text/plain")
        return await webhooks.answer(request, path)

    async def _run_media_socket(self, websocket: WebSocket) -> None:
        try:
            sockets = self._media_sockets
        except ConfigurationError as error:
            log.error("media socket refused, the settings are incomplete:\n%s", error)
            await websocket.close()  # before accept: HTTP 403
            return
        await sockets.run(websocket)


def refuse_without_token(connection: HTTPConnection, token: SecretStr | None) -> Response | None:
    """Return the refusal of a request that does not carry `token` as its bearer token; None if it does.

    Without a token in the settings there is nothing to see, so the refusal is a 404.
    """
    if token is None:
        return Response(status_code=404)
    given = connection.headers.get("authorization", "").encode()
    if hmac.compare_digest(given, f"Bearer {token.get_secret_value()}".encode()):
        return None
    return Response("give PHONEAGENT_API_TOKEN as a bearer token\n", 401, {"WWW-Authenticate": "Bearer"})
