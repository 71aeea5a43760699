"""The parts of an app, each made once from the settings, and the observers of each call's events.

They are imported when they are made, as the server starts. A module that only defines an app, as in an agent's own
tests and in most commands, needs neither the bridge nor a database, which take longest to import.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from starlette.types import ASGIApp

from phoneagent import telemetry
from phoneagent.agent.agent import Agent, Answer, Answerer, choose_answer, team_of
from phoneagent.agent.call import Call
from phoneagent.billing.prices import PRICES, Price
from phoneagent.billing.ratelimits import RateLimitReserve
from phoneagent.bridge.policy import Silence
from phoneagent.calls.hooks import Hooks
from phoneagent.errors import ConfigurationError, StoreError
from phoneagent.events import Event
from phoneagent.model.endpoint import Endpoint
from phoneagent.server.observers import Observer, observers_of
from phoneagent.settings import Settings

if TYPE_CHECKING:
    from phoneagent.calls.afterwards import Outbox
    from phoneagent.calls.calls import Calls
    from phoneagent.calls.campaigns import Campaigns
    from phoneagent.calls.journal import CallJournal
    from phoneagent.calls.messages import MessageLogs
    from phoneagent.calls.outbound import Outbound
    from phoneagent.calls.outcomes import Outcomes
    from phoneagent.calls.warm import WarmTransfers
    from phoneagent.console.api import Console
    from phoneagent.console.checks import Examine
    from phoneagent.console.feed import Feed
    from phoneagent.console.shared_feed import SharedFeed
    from phoneagent.store import Store
    from phoneagent.store.recordings import Recordings
    from phoneagent.twilio.rest import LiveCalls
    from phoneagent.twilio.verification import Verifier
    from phoneagent.webhooks.media_sockets import MediaSockets
    from phoneagent.webhooks.webhooks import Webhooks

log = logging.getLogger("phoneagent.server")


class App(Protocol):
    """What the parts need from the app; see `PhoneApp`."""

    agent: Answerer
    calls: dict[str, Call]
    endpoints: Sequence[Endpoint]
    draining: bool
    worker: int | None
    examine: Examine | None

    @property
    def settings(self) -> Settings: ...
    @property
    def endpoint(self) -> Endpoint: ...


class Parts:
    """The parts of one app.

    Args:
        app: the app.
        has_settings: whether the app's settings are given in code; then only `store` keeps records.
        store: the database given in code.
        prices: prices by model, which override those of the settings.
        not_found: answers requests for unknown paths.
    """

    def __init__(
        self, app: App, *, has_settings: bool, store: Store | None, prices: Mapping[str, Price], not_found: ASGIApp
    ) -> None:
        self._app = app
        self._has_settings = has_settings
        self._given_store = store
        self._prices = prices
        self._not_found = not_found
        self.hooks = Hooks()
        self.metrics = telemetry.Metrics()
        self.dialing: asyncio.Task[None] | None = None
        """Places the calls that wait in the queue."""
        self._tasks: list[asyncio.Task[Any]] = []

    @property
    def _settings(self) -> Settings:
        return self._app.settings

    def check(self) -> None:
        """Make the parts that depend on valid settings. Raises `ConfigurationError`."""
        _ = self.store, self.outbox, self.recordings and self.recordings.place

    async def open(self) -> None:
        """Start the tasks that run alongside the calls."""
        _ = self.webhooks  # incomplete settings stop the start, not the first call
        beside: list[Coroutine[Any, Any, None]] = [telemetry.watch_loop(self.metrics)]
        if isinstance(self._app.agent, Agent):
            beside.append(self._app.agent.open())  # MCP servers start slowly
        if self.store is not None:
            beside.append(_look_at(self.store))
        if self.recordings is not None:
            beside.append(self.recordings.keep())
        self._tasks = [asyncio.create_task(each) for each in beside]
        if self.outbound is not None:
            self.needed_outbound()
        if self.outbox is not None:
            self.outbox.wake()  # another process may have left something

    async def close(self) -> None:
        """End these tasks, and what is left of the calls."""
        self.end_streams()
        tasks = [*self._tasks, *([] if self.dialing is None else [self.dialing])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(self._app.agent, Agent):
            await self._app.agent.close()
        await self.calls.close()
        if self.console is not None and self.console.commands is not None:
            await self.console.commands.close()
        if self.outbox is not None:
            await self.outbox.close()
        if (outcomes := self.__dict__.get("outcomes")) is not None:
            await outcomes.close()
        if self.warm is not None:
            await self.warm.close()
        if self.store is not None:
            await self.store.close()

    def end_streams(self) -> None:
        """End the event streams: a stopping server waits for open responses."""
        if self.console is not None:
            self.console.end_streams()

    async def stop_dialing(self) -> None:
        """Stop placing calls, and close the database: for a process that serves no calls."""
        if self.dialing is not None:
            self.dialing.cancel()
            await asyncio.gather(self.dialing, return_exceptions=True)
        if self.store is not None:
            await self.store.close()

    @cached_property
    def store(self) -> Store | None:
        """The database of the call records: DATABASE_URL, or `store` alone if the settings are given in code."""
        if self._given_store is not None or self._has_settings:
            return self._given_store
        from phoneagent.store import Store

        return Store.from_settings(self._settings)

    @cached_property
    def recordings(self) -> Recordings | None:
        """The recordings of calls, at RECORD_AUDIO."""
        if self._settings.record_audio is None:
            return None
        from phoneagent.store.recordings import Recordings

        made = Recordings.from_settings(self._settings)
        if made is not None and self.store is not None:
            made.forgotten = self.store.forgotten
        return made

    @cached_property
    def verifier(self) -> Verifier:
        from phoneagent.twilio.verification import Verifier

        return Verifier(self._settings, self.store.claim if self.store is not None else None)

    @cached_property
    def live_calls(self) -> LiveCalls | None:
        settings = self._settings
        if settings.insecure and settings.twilio_api_url is None:  # `insecure` has a made-up account
            return None
        from phoneagent.twilio.rest import LiveCalls

        sid, token = settings.twilio_account_sid, settings.auth_tokens[0]
        return LiveCalls(sid, token, api_url=settings.twilio_api_url, backoff_seconds=0.2)

    @cached_property
    def journal(self) -> CallJournal | None:
        if self.store is None:
            return None
        from phoneagent.calls.journal import CallJournal

        fallback, own = self._settings.fallback_number, self._settings.twilio_phone_number
        return CallJournal(self.store, self.live_calls, fallback_number=fallback, calls=self._app.calls, own_number=own)

    @cached_property
    def warm(self) -> WarmTransfers | None:
        if self.store is None or self.live_calls is None:
            return None
        from phoneagent.calls.warm import WarmTransfers

        own_number = self._settings.twilio_phone_number
        return WarmTransfers(self.store.transfers, self.live_calls, url=self.verifier.url, own_number=own_number)

    @cached_property
    def reserve(self) -> RateLimitReserve:
        return RateLimitReserve(self._settings.rate_limit_reserve)

    @cached_property
    def webhooks(self) -> Webhooks:
        from phoneagent.webhooks.webhooks import Webhooks

        _ = self.outbox  # Twilio may report the end of a call to this process only
        return Webhooks(
            self._settings,
            verifier=self.verifier,
            calls=self.calls,
            journal=self.journal,
            warm=self.warm,
            reserve=self.reserve,
            metrics=self.metrics,
            draining=lambda: self._app.draining,
            worker=self._app.worker,
            outbound=self.outbound,
        )

    @cached_property
    def media_sockets(self) -> MediaSockets:
        from phoneagent.webhooks.media_sockets import MediaSockets

        return MediaSockets(
            verifier=self.verifier,
            calls=self.calls,
            journal=self.journal,
            metrics=self.metrics,
            account_sid=None if self._settings.insecure else self._settings.twilio_account_sid,
            outbound=self.outbound,
        )

    @cached_property
    def calls(self) -> Calls:
        from phoneagent.calls.calls import Calls

        return Calls(
            self._app.agent if self.console is None else self.console.answerer(self._app.agent),
            self._app.endpoints or [self._app.endpoint],
            calls=self._app.calls,
            hooks=self.hooks,
            emit=self.emit,
            journal=self.journal,
            endpoint_for=None if self.console is None else self.console.setup.trials.endpoint,
            measure=self.metrics.bridged,
            keep_state=self.store.keep_state if self.store is not None else None,
            keep_unfinished=self.store.keep_unfinished if self.store is not None else None,
            recordings=self.recordings,
            warm=self.warm,
            silence=Silence(dead_air_ms=self._settings.dead_air_ms, idle_seconds=self._settings.idle_seconds),
            max_call_seconds=self._settings.max_call_seconds,
            max_call_cost=self._settings.max_call_cost,
            prices={**PRICES, **self._settings.prices, **self._prices},
            messages=self.messages,
            outbound=self.outbound,
            team=team_of(self._app.agent) if isinstance(self._app.agent, Agent) else {},
        )

    @cached_property
    def messages(self) -> MessageLogs | None:
        settings = self._settings
        if not (settings.log_messages or settings.insecure or settings.local_api) or self.console is None:
            return None
        from phoneagent.calls.messages import MessageLogs

        return MessageLogs()

    @cached_property
    def console(self) -> Console | None:
        """The control API; None if the settings open it to no client."""
        token, local = self._settings.api_token, self._settings.insecure or self._settings.local_api
        if token is None and not local:
            return None
        from phoneagent.console.api import Console
        from phoneagent.console.dialing import Dialing
        from phoneagent.console.setup import Setup
        from phoneagent.console.softphone import Softphone

        return Console(
            token=token,
            local=local,
            calls=self._app.calls,
            look=lambda call_sid: self.calls.look(call_sid),  # a lambda, because `calls` needs this observer
            leaving=lambda call_sid: self.calls.leaving(call_sid),
            controlled=lambda call_sid, operation: self.calls.controlled(call_sid, operation),
            listen=lambda call_sid: self.calls.listen(call_sid),
            messages=lambda: self.messages,
            campaigns=lambda: self.needed_campaigns(),
            store=self.store,
            feed=self._feed(),
            recordings=self.recordings,
            web_calls=lambda: self.calls.web_calls,
            not_found=self._not_found,
            public_url=self._settings.public_url,
            softphone=Softphone(  # lambdas, because its parts need this observer too
                respond=lambda path, form: self.webhooks.respond(path, form),
                redeem=lambda token: self.verifier.redeem(token),
                run=lambda websocket, verified: self.media_sockets.run_verified(websocket, verified),
                calls=self._app.calls,
                number=self._settings.twilio_phone_number,
            ),
            setup=Setup(self._app),
            dialing=Dialing(
                self.needed_outbound, team_of(self._app.agent) if isinstance(self._app.agent, Agent) else ()
            ),
        )

    def _feed(self) -> Feed | SharedFeed:
        if self.store is None or self.store.events is None:
            from phoneagent.console.feed import Feed

            return Feed()
        from phoneagent.console.shared_feed import SharedFeed

        return SharedFeed(self.store.events)

    @cached_property
    def outcomes(self) -> Outcomes | None:
        """The part that fills in the outcomes of calls from their records; None without a database."""
        if self.store is None:
            return None
        from phoneagent.calls.opening import EndpointRouter
        from phoneagent.calls.outcomes import Outcomes
        from phoneagent.model.chat_completions import ChatEndpoint

        return Outcomes(
            self.store,
            self._choose_again,
            EndpointRouter(self._app.endpoints or [self._app.endpoint]),
            emit=self.emit,
            hooks=self.hooks,
            chat=ChatEndpoint.from_settings(self._settings),
            prices={**PRICES, **self._settings.prices, **self._prices},
        )

    async def _choose_again(self, call: Call) -> Answer:
        """Return the answerer of a call that is over."""
        app_agent, outbound = self._app.agent, self.outbound
        if outbound is not None:
            await outbound.attach(call)
            if isinstance(app_agent, Agent) and (name := outbound.agent_of(call)) is not None:
                return team_of(app_agent).get(name, app_agent)
        return await choose_answer(app_agent, call)

    @cached_property
    def observers(self) -> list[Observer]:
        """The functions that see each event of each call, in order. A call waits for them, so they must not block."""
        return observers_of(self._settings, self.metrics, self.reserve, self.store, self.console)

    def emit(self, event: Event, stream_sid: str) -> None:
        for observe in self.observers:
            observe(event, stream_sid)

    @cached_property
    def outbox(self) -> Outbox | None:
        """The work that follows the end of each call; None if there is none.

        Raises:
            ConfigurationError: there is a receiver but no database.
        """
        receiver, agent = None, self._app.agent
        if self._settings.webhook_url is not None:
            if self.store is None:
                raise ConfigurationError(["WEBHOOK_URL needs call records: give the app a store"])
            from phoneagent.calls.delivery import Receiver

            receiver = Receiver.from_settings(self._settings)
        team = team_of(agent).values() if isinstance(agent, Agent) else ()
        may_have_outcome = callable(agent) or any(each.outcome is not None for each in team)
        if self.store is None or (receiver is None and not may_have_outcome):
            return None
        from phoneagent.calls.afterwards import Outbox

        outcomes = self.outcomes if may_have_outcome else None
        return Outbox(self.store, receiver=receiver, outcomes=outcomes, draining=lambda: self._app.draining)

    # --- calling out ---

    def needed_outbound(self) -> Outbound:
        """Return the calls that the app makes, and place them from now on.

        Raises:
            ConfigurationError: Twilio or the database is missing.
        """
        if self.outbound is None:
            words = "calls are made by Twilio, and from a queue in the database: give the app both (not `insecure`)"
            raise ConfigurationError([words])
        if self.dialing is None or self.dialing.done():  # a mounted app has no lifespan
            assert self.campaigns is not None
            self.dialing = asyncio.create_task(_together(self.outbound.dialer.run, self.campaigns.run))
        return self.outbound

    def needed_campaigns(self) -> Campaigns:
        """Return the campaigns, and make their calls from now on. Raises like `needed_outbound`."""
        self.needed_outbound()
        assert self.campaigns is not None
        return self.campaigns

    @cached_property
    def campaigns(self) -> Campaigns | None:
        if self.store is None or self.outbound is None:
            return None
        from phoneagent.calls.campaigns import Campaigns

        agent = self._app.agent
        return Campaigns(
            self.store.campaigns,
            self.outbound,
            agents=team_of(agent) if isinstance(agent, Agent) else (),
            draining=lambda: self._app.draining,
        )

    @cached_property
    def outbound(self) -> Outbound | None:
        if self.store is None or (self._settings.insecure and self._settings.twilio_api_url is None):
            return None
        from phoneagent.calls.outbound import outbound_from

        self.store.outbound.unanswered = lambda event: self.calls.tell(event, "")
        return outbound_from(self._settings, self.store, self.verifier.url, lambda: self._app.draining)


async def _together(*runs: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for run in runs:
            group.create_task(run())


async def _look_at(store: Store) -> None:
    """Log at the start that the database does not answer: otherwise the first call would be the one to find out."""
    try:
        await store.check()
    except StoreError as error:
        log.error("calls are answered, but not recorded for now: %s", error)
