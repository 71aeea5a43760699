"""The Starlette app: its routes, and its interface for code. `parts` has the objects that it consists of."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from phoneagent import settings as settings_
from phoneagent import telemetry
from phoneagent.agent.agent import Agent, Answerer, check_handoffs, team_of
from phoneagent.agent.call import Call
from phoneagent.agent.transcriber import Transcriber
from phoneagent.billing.prices import Price
from phoneagent.calls.hooks import kinds_of
from phoneagent.errors import ConfigurationError, DefinitionError, shown
from phoneagent.model.endpoint import Endpoint
from phoneagent.server.parts import Parts
from phoneagent.settings import Settings
from phoneagent.twilio import AFTER_PATH, AMD_PATH, MEDIA_PATH, PARTY_PATH, STATUS_PATH
from phoneagent.twilio import VOICE_PATH as VOICE_PATH  # where a number's webhook points
from phoneagent.usercode import signature_problem

if TYPE_CHECKING:
    from phoneagent.calls.campaigns import Campaigns
    from phoneagent.calls.outbound import First, OnMachine
    from phoneagent.console.checks import Examine
    from phoneagent.store import Store
    from phoneagent.store.records import OutboundCall

log = logging.getLogger("phoneagent.server")

_Hook = TypeVar("_Hook", bound=Callable[[Any], Any])


class PhoneApp(Starlette):
    """A Starlette app that answers Twilio's calls with an agent.

    `agent` may also be a function of the call, plain or async, that returns an agent. It may choose by the called
    number, for example, so that one app serves many numbers. It runs once for each call, and again if the call moves to
    another process. A `Transcriber` can take the agent's place, for calls between two people.

    Routes: `POST|GET /twilio/voice` (the number's voice webhook), `POST /twilio/status` (its status callback), `POST
    /twilio/after` (the next step after a media stream), `POST /twilio/party` (the other side of a transfer), `POST
    /twilio/amd` (the far end of an outgoing call), `WS /twilio/media/{token}`, `GET /healthz`, `GET /readyz` (503 while
    draining), `GET /metrics` (with PHONEAGENT_API_TOKEN). The control API, `/calls` and below, `/events` and
    `/openapi.json`, exists with that token too; your own routes come before it.

    The app can be mounted in another Starlette or FastAPI app; PUBLIC_URL then includes the path of the mount. The
    settings are read from the environment when the server starts, or at the first request if the app is mounted.

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
        _check(agent, settings, endpoint, endpoints, prices or {})
        super().__init__(
            routes=[
                Route(VOICE_PATH, partial(self._answer_webhook, VOICE_PATH), methods=["GET", "POST"]),
                Route(AFTER_PATH, partial(self._answer_webhook, AFTER_PATH), methods=["POST"]),
                Route(STATUS_PATH, partial(self._answer_webhook, STATUS_PATH), methods=["POST"]),
                Route(PARTY_PATH, partial(self._answer_webhook, PARTY_PATH), methods=["POST"]),
                Route(AMD_PATH, partial(self._answer_webhook, AMD_PATH), methods=["POST"]),
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
        """Whether this process is shutting down, so that new calls are sent to another one."""
        self.worker: int | None = None
        """The number of this process among those of `phoneagent serve`, which pass each media socket to the process
        that expects it; None if there are none."""
        self.examine: Examine | None = None
        """Runs the checks of the setup page. `phoneagent serve` sets those of the doctor, unknown to the app."""
        self._given_settings = settings
        self.endpoints: Sequence[Endpoint] = list(endpoints) if endpoint is None else [endpoint]
        """The endpoints given in code, in order of preference; without any, `endpoint` comes from the settings."""
        self._parts = Parts(
            self, has_settings=settings is not None, store=store, prices=prices or {}, not_found=self._answer_nothing
        )
        telemetry.hide_secrets()

    @property
    def coming(self) -> int:
        """The number of calls that were answered and whose media socket has not come yet."""
        return self._parts.calls.coming

    @property
    def carried(self) -> int:
        """The number of calls that this process has: their media socket is here, or still to come."""
        return self._parts.calls.carried

    @property
    def unfinished(self) -> int:
        """The number of media sockets whose call, tools or hooks still run, and of events that hooks are still told."""
        return self._parts.calls.unfinished

    def on(self, kinds: Any) -> Callable[[_Hook], _Hook]:
        """Register a hook, a plain or async function that gets each event of these kinds: `@app.on(CallEnded)`.

        Several kinds are joined by `|`. Hooks never delay a call. For each call they run in order, one at a time, with
        up to 10 s for each event; a failure is logged.
        """

        kinds_of(kinds)  # report a mistake here: `@app.on` without parentheses would register nothing

        def register(hook: _Hook) -> _Hook:
            self._parts.hooks.add(kinds, hook)
            return hook

        return register

    # --- handing calls over ---

    @property
    def hands_over(self) -> bool:
        """Whether calls can move to another process, which takes a store that both processes use."""
        return self._parts.journal is not None

    def hand_over(self, reason: str) -> None:
        """Move every call to another process, each at the first moment when its caller does not notice."""
        self._parts.calls.hand_over(reason)

    def hand_over_now(self, call_sid: str, reason: str) -> None:
        """Move a call to another process at once."""
        self._parts.calls.hand_over_now(call_sid, reason)

    def end_streams(self) -> None:
        """End the event streams: a stopping server waits for open responses."""
        with suppress(ConfigurationError):
            self._parts.end_streams()

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
        """Make the parts that depend on valid settings, so that a mistake is found before the start.

        Raises:
            ConfigurationError: a setting is missing or malformed, or the driver of the database is not installed.
        """
        _ = self.endpoint
        self._parts.check()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request.

        Under another server, configuration errors are reported one per line, not as a traceback.
        """

        async def send_short(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed" and isinstance(
                error := sys.exception(), ConfigurationError
            ):
                message = {**message, "message": str(error)}
            await send(message)

        await super().__call__(scope, receive, send_short if scope["type"] == "lifespan" else send)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        await self._parts.open()
        yield
        await self._parts.close()

    # --- calling out ---

    async def dial(
        self,
        to: str,
        *,
        context: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        from_: str | None = None,
        agent: str | None = None,
        first: First = "callee",
        on_machine: OnMachine = "talk",
        message: str | None = None,
        timeout: int = 30,
        time_limit: int | None = None,
    ) -> OutboundCall:
        """Call a number (E.164, or `sip:…`, `client:…`), and return the call once it is queued; it rings soon after.

        Calls with one `idempotency_key` are one call, whatever happens to this process, to Twilio's answers or to the
        network: it rings once. `context`, a dict that JSON can express, is `call.context`. `agent` names one of the
        agent's team. `first` says whether the agent or the callee speaks first. `on_machine` says what an answering
        machine gets: the agent, nothing, or `message` after its beep. `timeout` is how long it rings, and `time_limit`
        the maximum duration of the call, both in seconds.

        Raises:
            TelephonyError: the number is never called, as an emergency or premium-rate number is.
            DefinitionError: another argument cannot be used.
            ConfigurationError: a setting is missing.
            StoreError: the database does not answer, so nothing is queued.
        """
        team = team_of(self.agent) if isinstance(self.agent, Agent) else ()
        return await self._parts.needed_outbound().dial(
            to,
            agents=team,
            agent=agent,
            context=context,
            idempotency_key=idempotency_key,
            from_=from_,
            first=first,
            on_machine=on_machine,
            message=message,
            timeout=timeout,
            time_limit=time_limit,
        )

    async def outbound_call(self, id: str) -> OutboundCall | None:
        """Return a call that `dial` made, in its current state; None if there is none with this id.

        Raises:
            ConfigurationError: a setting is missing.
            StoreError: the database does not answer.
        """
        return await self._parts.needed_outbound().get(id)

    @property
    def campaigns(self) -> Campaigns:
        """The campaigns of this app: lists of numbers that are called when their hours and the limits allow it.

        Raises:
            ConfigurationError: a setting is missing.
        """
        return self._parts.needed_campaigns()

    async def stop_dialing(self) -> None:
        """Stop placing calls, and close the database: for a process that serves no calls."""
        await self._parts.stop_dialing()

    # --- health ---

    async def _healthz(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "calls": len(self.calls)})

    async def _readyz(self, request: Request) -> Response:
        if self.draining:
            return JSONResponse({"status": "draining", "calls": len(self.calls)}, status_code=503)
        return JSONResponse({"status": "ok"})

    async def _show_metrics(self, request: Request) -> Response:
        console = self._parts.console if self.settings.api_token is not None else None
        if console is None:
            return Response(status_code=404)
        if (refusal := console.access.check_token(request)) is not None:
            return refusal
        return Response(self._parts.metrics.text(), media_type="text/plain; version=0.0.4")

    # --- Twilio's requests ---
    # A mounted app has no lifespan, so missing settings may only be found here.

    async def _answer_webhook(self, path: str, request: Request) -> Response:
        try:
            webhooks = self._parts.webhooks
        except ConfigurationError as error:
            log.error("webhook refused, the settings are incomplete:\n%s", error)
            return Response("not configured\n", status_code=500, media_type="text/plain")
        return await webhooks.answer(request, path)

    async def _answer_elsewhere(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for a path that neither our routes nor the user's have."""
        answer: ASGIApp = self._answer_nothing
        if scope["type"] in ("http", "websocket"):
            with suppress(ConfigurationError):
                answer = self._parts.console or answer
        await answer(scope, receive, send)

    async def _answer_nothing(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for an unknown path; if it comes from Twilio, the log says why Twilio requested it."""
        if scope["type"] == "http" and scope["method"] in ("GET", "POST"):
            with suppress(ConfigurationError):
                await self._parts.webhooks.explain(Request(scope, receive))
        await self._not_found(scope, receive, send)

    async def _run_media_socket(self, websocket: WebSocket) -> None:
        try:
            sockets = self._parts.media_sockets
        except ConfigurationError as error:
            self._parts.metrics.refused("socket")
            log.warning("media socket refused: %s", telemetry.hidden(str(error)))
            await websocket.close()  # before accept: HTTP 403
            return
        await sockets.run(websocket)


def _check(
    agent: Answerer,
    settings: Settings | None,
    endpoint: Endpoint | None,
    endpoints: Sequence[Endpoint],
    prices: Mapping[str, Price],
) -> None:
    """Check the arguments of an app. Raises `DefinitionError`."""
    if not isinstance(agent, Agent | Transcriber) and not callable(agent):
        raise DefinitionError(
            f"PhoneApp has agent={shown(repr(agent), 80)}: give it an Agent, or a function that returns one"
        )
    if callable(agent) and (problem := signature_problem(agent, "call")) is not None:
        raise DefinitionError(f"PhoneApp has a function that chooses the agent and {problem}")
    for each in (*(() if endpoint is None else (endpoint,)), *endpoints):
        if not isinstance(each, Endpoint):  # a URL may contain a key, so only the type is named
            raise DefinitionError(f"PhoneApp has a {type(each).__name__} as an endpoint: write Endpoint.gateway(…)")
    if endpoint is not None and endpoints:
        raise DefinitionError("PhoneApp has both endpoint= and endpoints=: list them all in endpoints=, in order")
    if settings is not None and not isinstance(settings, Settings):
        raise DefinitionError(f"PhoneApp has settings of type {type(settings).__name__}: write Settings(…)")
    for model, price in prices.items():
        if not isinstance(price, Price):
            raise DefinitionError(f"PhoneApp has the price {price!r} for {model!r}: write Price(…)")
