"""Making calls from outside: `POST /calls` does what `app.dial` does, and `GET /calls/outbound/{id}` shows a call.

A new call waits in a queue, so it has an id from here until Twilio has given it a CallSid.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from phoneagent.agent.agent import MAX_NAME_CHARS
from phoneagent.calls.outbound import (
    MAX_MESSAGE_CHARS,
    MAX_SECONDS,
    First,
    KeyOfAnotherCall,
    OnMachine,
    Outbound,
)
from phoneagent.console.body import JSON, Body, read_body
from phoneagent.console.operations import KEY, NUMBERS, Operation, full_numbers, idempotency_key
from phoneagent.console.problems import BadRequest, Conflict, Problem, Refused
from phoneagent.errors import ConfigurationError, DefinitionError
from phoneagent.protocol.dialing import MAX_ADDRESS_CHARS, refusal
from phoneagent.store.records import OutboundCall
from phoneagent.telemetry import masked

_KEY_USED = "this Idempotency-Key came with another call before: make a new one for each call"
_UNKNOWN = "no call with this id was made, or its record is deleted: POST /calls answers with the id"


class Dial(Body, frozen=True):
    """A call to make: the arguments of `app.dial`. Only `to` is needed."""

    to: Annotated[str, Meta(min_length=1, max_length=MAX_ADDRESS_CHARS)]
    from_: Annotated[str, Meta(pattern=r"^\+[1-9][0-9]{6,14}$")] | UnsetType = msgspec.field(default=UNSET, name="from")
    agent: Annotated[str, Meta(max_length=MAX_NAME_CHARS)] | UnsetType = UNSET
    context: dict[str, Any] | UnsetType = UNSET
    first: First = "callee"
    on_machine: OnMachine = "talk"
    message: Annotated[str, Meta(min_length=1, max_length=MAX_MESSAGE_CHARS)] | UnsetType = UNSET
    timeout: Annotated[int, Meta(ge=5, le=600)] = 30
    time_limit: Annotated[int, Meta(ge=1, le=MAX_SECONDS)] | UnsetType = UNSET


class MadeCall(Struct, frozen=True):
    """A call that was made, in its current state.

    The status is Twilio's once Twilio has the call. Before, it is `queued`, `placing` or `placed`; and `refused` if it
    was never placed, with the reason in `error`. With the `call_sid`, the call can be found under `/calls/{sid}`.
    """

    id: str
    status: str
    call_sid: str | None
    to: str
    from_: str | None = msgspec.field(name="from")
    agent: str | None
    answered_by: str | None
    decided: str | None
    message_left: bool | None
    error: str | None
    attempts: int
    created_at: datetime
    ended_at: datetime | None


class Dialing:
    """The operations that make calls.

    Args:
        outbound: returns the object that makes calls; raises ConfigurationError without Twilio or a database.
        agents: the names that a call's agent may have.
    """

    def __init__(self, outbound: Callable[[], Outbound], agents: Collection[str]) -> None:
        self._outbound = outbound
        self._agents = agents
        self.make = Operation(
            self._make,
            "Make a call",
            (NUMBERS, KEY),
            body=Dial,
            result=MadeCall,
            status=202,
            example={"to": "+12025550123", "context": {"visit": 7}, "on_machine": "hang_up"},
            problems=(409, 413, 415, 422, 501, 503),
        )
        self.show = Operation(
            self._show, "Show a call that was made", (NUMBERS,), result=MadeCall, problems=(404, 501, 503)
        )

    async def _make(self, request: Request) -> Response:
        full = full_numbers(request)
        body, _ = await read_body(request, Dial)
        key = idempotency_key(request)
        if (why := await asyncio.to_thread(refusal, body.to)) is not None:  # its tables are large
            raise Refused(f"to is not called: {why}")
        given: dict[str, Any] = {
            name: None if (value := getattr(body, name)) is UNSET else value
            for name in ("context", "agent", "from_", "first", "on_machine", "message", "timeout", "time_limit")
        }
        try:
            made = await self._outbound().dial(body.to, agents=self._agents, idempotency_key=key, **given)
        except ConfigurationError as error:
            return Problem(501, str(error))
        except KeyOfAnotherCall:
            raise Conflict(_KEY_USED) from None
        except DefinitionError as error:
            raise BadRequest(str(error).replace("dial has", "the body has", 1)) from None
        place = f"{request.scope.get('root_path', '')}/calls/outbound/{made.id}"
        return _answer(made, 202, {"Location": place}, full=full)

    async def _show(self, request: Request) -> Response:
        full = full_numbers(request)
        try:
            made = await self._outbound().get(request.path_params["id"])
        except ConfigurationError as error:
            return Problem(501, str(error))
        return Problem(404, _UNKNOWN) if made is None else _answer(made, 200, {}, full=full)


def _answer(made: OutboundCall, status: int, headers: dict[str, str], *, full: bool) -> Response:
    caller = made.plan.get("from")
    answer = MadeCall(
        id=made.id,
        status=made.status,
        call_sid=made.call_sid,
        to=made.to if full else masked(made.to),
        from_=caller if full or caller is None else masked(caller),
        agent=made.plan.get("agent"),
        answered_by=made.answered_by,
        decided=made.decided,
        message_left=made.message_left,
        error=made.error,
        attempts=made.attempts,
        created_at=made.created_at,
        ended_at=made.ended_at,
    )
    return Response(msgspec.json.encode(answer), status, {"Cache-Control": "no-store", **headers}, JSON)
