"""The web calls of one process: a key for each page that asks for one, and the call that the page then makes.

A page gets a key from the model's server, for a session with the agent's configuration. It connects by WebRTC, and
reports its call here. From then on its tools run here, over a side-band socket that uses the API key. The key stays on
the server.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

from phoneagent.agent.agent import Agent, Answerer, choose
from phoneagent.agent.call import Call
from phoneagent.agent.handoffs import INSTRUCTIONS_SECONDS
from phoneagent.bridge.policy import Policy
from phoneagent.bridge.web_call import WebConversation
from phoneagent.calls.hooks import Hooks
from phoneagent.calls.next_step import Journal
from phoneagent.calls.web_call import WebCall
from phoneagent.errors import EndpointError, PhoneAgentError, RequestRefused
from phoneagent.events import CallStarted, Event
from phoneagent.model.connection import ModelSession
from phoneagent.model.endpoint import Endpoint
from phoneagent.model.web_calls import ClientSecret, create_client_secret, hang_up_call, join_call

log = logging.getLogger("phoneagent.calls.web_calls")

SECRET_SECONDS = 60
"""How long a key is valid: a page connects at once."""

MAX_SESSIONS = 100
"""How many sessions may wait for their page to report its call, and how many web calls may be live."""

DIRECTION = "web"
"""The `direction` of a web call's `Call`."""


@dataclass(frozen=True, slots=True)
class WebSession:
    """A session that a page may open: `id` identifies it here, until its key expires or its call is reported."""

    id: str
    secret: ClientSecret


@dataclass(frozen=True, slots=True)
class _Expected:
    call: Call
    agent: Agent
    endpoint: Endpoint
    recognizer: str
    until: float


class WebCalls:
    """The web calls of a process; `calls` has the live calls; web calls are added to it.

    `endpoint` returns the server of the next call. `emit` takes each event, with the id of the call at that server.
    """

    def __init__(
        self,
        answerer: Answerer,
        endpoint: Callable[[], Endpoint],
        *,
        calls: dict[str, Call],
        hooks: Hooks,
        emit: Callable[[Event, str], None],
        journal: Journal | None,
        policy: Policy,
    ) -> None:
        self._answerer = answerer
        self._endpoint = endpoint
        self._calls = calls
        self._hooks = hooks
        self._emit = emit
        self._journal = journal
        self._policy = policy
        self._expected: OrderedDict[str, _Expected] = OrderedDict()
        self._making = 0
        self._running: set[asyncio.Task[None]] = set()

    async def create(self, parameters: Mapping[str, str]) -> WebSession:
        """Make a session for a page. `parameters` are `call.parameters` for the function that chooses the agent.

        Raises:
            RequestRefused: there are too many sessions.
            EndpointError: the model's server does not make a key.
            DefinitionError: the user's code gives no agent; or TimeoutError, if it takes too long.
        """
        self._forget()
        if len(self._expected) + self._making >= MAX_SESSIONS or len(self._running) >= MAX_SESSIONS:
            raise RequestRefused(f"there are {MAX_SESSIONS} web calls, or sessions that wait for one: try again later")
        self._making += 1
        try:
            return await self._create(parameters)
        finally:
            self._making -= 1

    async def _create(self, parameters: Mapping[str, str]) -> WebSession:
        session_id = f"WC{secrets.token_hex(16)}"
        call = Call(sid=session_id, caller=None, called=None, direction=DIRECTION, started_at=datetime.now(UTC))
        call.parameters = dict(parameters)
        async with asyncio.timeout(INSTRUCTIONS_SECONDS):
            agent = await choose(self._answerer, call)
            session = agent.session(await agent.instructions_for(call))
        if (detection := session["audio"]["input"]["turn_detection"]) is not None:
            # The model's server knows what the page has played, so it interrupts by itself, and answers.
            allowed = agent.interruption.enabled
            session["audio"]["input"]["turn_detection"] = detection | {
                "create_response": True,
                "interrupt_response": allowed,
            }
        endpoint = self._endpoint()
        if (models := agent.hearing.transcription_models) is not None:
            endpoint = replace(endpoint, transcription_models=models)
        secret = await create_client_secret(endpoint, session, call, seconds=SECRET_SECONDS)
        until = time.monotonic() + SECRET_SECONDS
        self._expected[session_id] = _Expected(call, agent, endpoint, secret.recognizer or "unknown", until)
        return WebSession(session_id, secret)

    async def connect(self, session_id: str, call_id: str) -> None:
        """Follow the call that a page has made with its session; once for each session.

        Raises:
            RequestRefused: there is no such session, or its call was reported before.
            EndpointError: the server has no such call.
        """
        self._forget()
        expected = self._expected.pop(session_id, None)
        if expected is None:
            raise RequestRefused("there is no such session, or its call was named already: make a new one")
        try:
            model = await join_call(expected.endpoint, call_id, expected.call)
        except (EndpointError, asyncio.CancelledError):
            self._expected[session_id] = expected  # the page may try again
            raise
        task = asyncio.create_task(self._run(expected, call_id, model))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """End all web calls."""
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, expected: _Expected, call_id: str, model: ModelSession) -> None:
        call, agent = expected.call, expected.agent
        follower = self._hooks.follow()

        def emit(event: Event) -> None:
            self._emit(event, call_id)
            follower.tell(event)

        conversation = WebConversation(
            call.sid,
            model=_model_of(expected.endpoint),
            recognizer=expected.recognizer,
            prices=self._policy.prices,
            greeting=agent.greeting,
            max_cost=self._policy.max_call_cost,
            manual_turns=agent.turn_detection is None,
            barge_in=agent.interruption.enabled,
        )
        running = WebCall(
            call,
            agent,
            conversation,
            model,
            emit,
            journal=self._journal,
            max_seconds=self._policy.max_call_seconds,
            model_events=self._hooks.wants_model_events,
        )
        emit(CallStarted(call_sid=call.sid, stream_sid=call_id, caller=None, called=None, direction=DIRECTION))
        self._calls[call.sid] = call
        try:
            try:
                await running.run()
            finally:  # even if this process ends: a page that has only lost the agent's tools would go on talking
                await hang_up_call(expected.endpoint, call_id, call)
        except PhoneAgentError as error:
            log.warning("the web call could not be hung up: %s", error, extra={"call_sid": call.sid})
        finally:
            self._calls.pop(call.sid, None)
            await follower.close()

    def _forget(self) -> None:
        """Forget the sessions whose key has expired."""
        now = time.monotonic()
        while self._expected and next(iter(self._expected.values())).until < now:
            self._expected.popitem(last=False)


def _model_of(endpoint: Endpoint) -> str:
    """Return the model in an endpoint's URL."""
    query = dict(parse_qsl(urlsplit(endpoint.url).query))
    return query.get("model") or query.get("deployment") or "unknown"
