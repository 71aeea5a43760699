"""The Starlette app: its routes, the parts that it is made of, and the observers of each call's events."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from phoneagent import settings as settings_
from phoneagent import telemetry
from phoneagent.agent.agent import Agent, Answerer, check_handoffs
from phoneagent.agent.call import Call
from phoneagent.billing.prices import PRICES, Price
from phoneagent.billing.ratelimits import RateLimitReserve
from phoneagent.calls.calls import Calls
from phoneagent.calls.hooks import Hooks, kinds_of
from phoneagent.calls.journal import CallJournal
from phoneagent.errors import ConfigurationError, DefinitionError, StoreError
from phoneagent.events import Event, RateLimitsUpdated
from phoneagent.model.endpoint import Endpoint
from phoneagent.settings import Settings
from phoneagent.twilio.verification import Verifier
from phoneagent.usercode import signature_problem
from phoneagent.webhooks import AFTER_PATH, MEDIA_PATH, STATUS_PATH, MediaSockets, Webhooks
from phoneagent.webhooks import VOICE_PATH as VOICE_PATH  # where a number's webhook points

if TYPE_CHECKING:
    from phoneagent.store import Store

log = logging.getLogger("phoneagent.server")

Observer: TypeAlias = Callable[[Event, str], None]
"""A function that gets an event, and the sid of the media stream that the event belongs to."""

_Hook = TypeVar("_Hook", bound=Callable[[Any], Any])


class PhoneApp(Starlette):
    """A Starlette app that answers Twilio's calls with an agent.

    `agent` may also be a function of the call, plain or async, that returns an agent. It may choose by the called
    number, for example, so that one app serves many numbers. It runs once for each call, and again if the call moves to
    another process.

    Routes: `POST|GET /twilio/voice` (the number's voice webhook), `POST /twilio/status` (its status callback), `POST
    /twilio/after` (what a call does after its media stream), `WS /twilio/media/{token}`, `GET /healthz`, `GET /readyz`
    (503 while draining), `GET /metrics` (with PHONEAGENT_API_TOKEN).

    The app can be mounted in another Starlette or FastAPI app; PUBLIC_URL then includes the path of the mount. Settings
    are read from the environment when the server starts, or at the first request if the app is mounted.

    `prices` (by model) override those of the settings, which override the built-in table.

    With several endpoints, a session is opened at the first one that accepts it, even in the middle of a call whose
    session was lost.

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
        if not isinstance(agent, Agent) and (problem := signature_problem(agent, "call")) is not None:
            raise DefinitionError(f"PhoneApp has a function that chooses the agent and {problem}")
        for each in (*(() if endpoint is None else (endpoint,)), *endpoints):
            if not isinstance(each, Endpoint):  # a URL may contain a key, so only the type is named
                raise DefinitionError(f"PhoneApp has a {type(each).__name__} as an endpoint: write Endpoint.gateway(…)")
        if endpoint is not None and endpoints:
            raise DefinitionError("PhoneApp has both endpoint= and endpoints=: list them all in endpoints=, in order")
        if settings is not None and not isinstance(settings, Settings):
            raise DefinitionError(f"PhoneApp has settings of type {type(settings).__name__}: write Settings(…)")
        for model, price in (prices or {}).items():
            if not isinstance(price, Price):
                raise DefinitionError(f"PhoneApp has the price {price!r} for {model!r}: write Price(…)")
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
        self._not_found, self.router.default = self.router.default, self._answer_elsewhere
        if isinstance(agent, Agent):
            check_handoffs(agent)  # report a mistake now rather than in a call
        self.agent = agent
        self.calls: dict[str, Call] = {}
        """The live calls by CallSid."""
        self.draining = False
        """Whether this process is about to end, so that new calls are sent to another one."""
        self.worker: int | None = None
        """The number of this process among those of `phoneagent serve`, which pass each media socket to the process
        that expects it; None if there are none."""
        self._given_settings = settings
        self.endpoints: Sequence[Endpoint] = list(endpoints) if endpoint is None else [endpoint]
        """The endpoints given in code, in order of preference; without any, `endpoint` comes from the settings."""
        self._given_store = store
        self._given_prices = prices or {}
        self._hooks = Hooks()
        self._metrics = telemetry.Metrics()
        telemetry.hide_secrets()

    @property
    def coming(self) -> int:
        """The number of calls that were answered and whose media socket has not come yet."""
        return self._calls.coming

    @property
    def carried(self) -> int:
        """The number of calls that this process has: their media socket is here, or still to come."""
        return self._calls.carried

    @property
    def unfinished(self) -> int:
        """The number of media streams that are not finished: the call, its tools or its hooks still run."""
        return self._calls.unfinished

    def on(self, kinds: Any) -> Callable[[_Hook], _Hook]:
        """Register a hook, a plain or async function that gets each event of these kinds: `@app.on(CallEnded)`.

        Several kinds are joined by `|`. Hooks never delay a call. For each call they run in order, one at a time, with
        10 s for each event; a failure is logged.
        """

        kinds_of(kinds)  # report a mistake here: `@app.on` without parentheses would register nothing

        def register(hook: _Hook) -> _Hook:
            self._hooks.add(kinds, hook)
            return hook

        return register

    # --- handing calls over ---

    @property
    def hands_over(self) -> bool:
        """Whether calls can move to another process, which takes a store that both processes use."""
        return self._journal is not None

    def hand_over(self, reason: str) -> None:
        """Move every call to another process, each at the first moment when its caller does not notice."""
        self._calls.hand_over(reason)

    def hand_over_now(self, call_sid: str, reason: str) -> None:
        """Move a call to another process at once."""
        self._calls.hand_over_now(call_sid, reason)

    # --- the parts, each made once from the settings ---

    @cached_property
    def settings(self) -> Settings:
        """The settings given in code, else those of the environment.

        Raises:
            ConfigurationError: a setting is missing or malformed.
        """
        return self._given_settings or settings_.load({"endpoint_in_code": True} if self.endpoints else None)

    @cached_property
    def endpoint(self) -> Endpoint:
        """The endpoint at which model sessions are opened: the first given in code, else the one of the settings.

        Raises:
            ConfigurationError: a setting is missing or malformed.
        """
        return self.endpoints[0] if self.endpoints else Endpoint.from_settings(self.settings)

    def check(self) -> None:
        """Make the parts that a mistake in the settings keeps from being made, so that it is found before the start.

        Raises:
            ConfigurationError: a setting is missing or malformed, or the driver of the database is not installed.
        """
        _ = self.endpoint, self._store

    @cached_property
    def _store(self) -> Store | None:
        """The database of the call records: DATABASE_URL, or `store` alone if the settings are given in code."""
        if self._given_store is not None or self._given_settings is not None:
            return self._given_store
        from phoneagent.store import Store  # SQLAlchemy is the heaviest import of all

        return Store.from_settings(self.settings)

    @cached_property
    def _verifier(self) -> Verifier:
        return Verifier(self.settings, self._store.claim if self._store is not None else None)

    @cached_property
    def _journal(self) -> CallJournal | None:
        if self._store is None:
            return None
        settings, live_calls = self.settings, None
        if not settings.insecure or settings.twilio_api_url is not None:  # `insecure` has a made-up account
            from phoneagent.twilio.rest import LiveCalls  # Twilio's client and requests, for this alone

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
            worker=self.worker,
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
        """The functions that see each event of each call, in order. A call waits for them, so they must not block."""
        settings, metrics, reserve, store = self.settings, self._metrics, self._reserve, self._store

        def log_event(event: Event, stream_sid: str) -> None:
            telemetry.log_event(event, pii=settings.log_pii, transcript=settings.show_transcript)

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
        _ = self._webhooks  # settings that are incomplete stop the start, not the first call
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(telemetry.watch_loop(self._metrics))]
        if isinstance(self.agent, Agent):
            tasks.append(asyncio.create_task(self.agent.open()))  # MCP servers start slowly
        if self._store is not None:
            tasks.append(asyncio.create_task(_look_at(self._store)))
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
    # A mounted app has no lifespan, so here may be the first place to find out that settings are missing.

    async def _answer_webhook(self, path: str, request: Request) -> Response:
        try:
            webhooks = self._webhooks
        except ConfigurationError as error:
            log.error("webhook refused, the settings are incomplete:\n%s", error)
            return Response("not configured\n", status_code=500, media_type="text/plain")
        return await webhooks.answer(request, path)

    async def _answer_elsewhere(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for a path where nothing is; if Twilio asks, the log says what leads it there."""
        if scope["type"] == "http" and scope["method"] in ("GET", "POST"):
            with suppress(ConfigurationError):
                await self._webhooks.explain(Request(scope, receive))
        await self._not_found(scope, receive, send)

    async def _run_media_socket(self, websocket: WebSocket) -> None:
        try:
            sockets = self._media_sockets
        except ConfigurationError as error:
            self._metrics.refused("socket")
            log.warning("media socket refused: %s", telemetry.hidden(str(error)))
            await websocket.close()  # before accept: HTTP 403
            return
        await sockets.run(websocket)


async def _look_at(store: Store) -> None:
    """Log at the start that the database does not answer: otherwise the first call would be the one to find out."""
    try:
        await store.check()
    except StoreError as error:
        log.error("calls are answered, but not recorded for now: %s", error)


def refuse_without_token(connection: HTTPConnection, token: SecretStr | None) -> Response | None:
    """Return a response that refuses a request without `token` as its bearer token; None if the request has it.

    Without a token in the settings the resource does not exist, so the response is a 404.
    """
    if token is None:
        return Response(status_code=404)
    given = connection.headers.get("authorization", "").encode()
    if hmac.compare_digest(given, f"Bearer {token.get_secret_value()}".encode()):
        return None
    return Response("give PHONEAGENT_API_TOKEN as a bearer token\n", 401, {"WWW-Authenticate": "Bearer"})
