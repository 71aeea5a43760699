"""Campaigns over HTTP: `POST /campaigns`, `GET /campaigns`, `GET /campaigns/{id}` and `POST /campaigns/{id}/stop`.

A campaign is identified by its id or its name. The name makes a start idempotent: the same list and rules under the
same name are the same campaign, and it continues.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from phoneagent.calls.campaign_plan import Rules
from phoneagent.calls.campaigns import MAX_NAME_CHARS, PAGE, Campaigns
from phoneagent.console.body import JSON, read_body
from phoneagent.console.operations import NUMBERS, Number, Operation, Operations, full_numbers
from phoneagent.console.problems import BadRequest, Conflict, Problem
from phoneagent.errors import ConfigurationError, DefinitionError
from phoneagent.store import Store
from phoneagent.store.campaign_records import (
    Campaign,
    CampaignCall,
    CampaignState,
    NewCall,
    NumberState,
    OtherCampaign,
)
from phoneagent.telemetry import masked

MAX_CALLS = 10_000
"""How many numbers a request may have. `phoneagent campaign start` accepts ten times as many."""

MAX_BODY_BYTES = 4 * 1024 * 1024
MAX_LISTED = 100

GetCampaigns: TypeAlias = Callable[[], Campaigns]

_LIMIT = Number("limit", 1, PAGE, 100, "how many numbers of the list, or how many campaigns")
_AFTER = Number("after", 0, 10**9, 0, "only lines of the list after this one")

_NONE = "there is no such campaign: GET /campaigns lists them"


class Listed(Struct, frozen=True, forbid_unknown_fields=True):
    """A number to call, and what is known about it: `call.context`."""

    to: Annotated[str, Meta(min_length=1, max_length=60)]
    context: dict[str, Any] = {}


class NewCampaign(Struct, frozen=True, forbid_unknown_fields=True):
    """A campaign to start.

    Lines that cannot be called are skipped, and the campaign says why. If it is `strict`, such lines make it refused.
    """

    name: Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]
    calls: Annotated[list[Listed], Meta(min_length=1, max_length=MAX_CALLS)]
    rules: Rules = msgspec.field(default_factory=Rules)
    region: Annotated[str, Meta(pattern="^[A-Z]{2}$")] | None = None
    strict: bool = False
    do_not_call: Annotated[list[Annotated[str, Meta(max_length=60)]], Meta(max_length=MAX_CALLS)] = []


class Stop(Struct, frozen=True, forbid_unknown_fields=True):
    """An empty object."""


class CampaignStatus(Struct, frozen=True):
    """The status of a campaign: how many numbers are in each state, and how many last calls had each result."""

    id: str
    name: str
    state: CampaignState
    total: int
    numbers: dict[NumberState, int]
    results: dict[str, int]
    created_at: str
    ended_at: str | None
    rules: dict[str, Any]


class CampaignLine(Struct, frozen=True):
    """One number of a campaign, by its line in the list."""

    line: int
    to: str
    state: NumberState
    attempts: int
    result: str | None
    call_sid: str | None
    outcome: Any
    reason: str | None
    due_at: str | None
    ended_at: str | None


class CampaignPage(CampaignStatus, frozen=True, kw_only=True):
    """A campaign with a page of its numbers, and the line to continue after; null if these are the last."""

    calls: Sequence[CampaignLine]
    next: int | None


class CampaignsList(Struct, frozen=True):
    """The latest campaigns, newest first."""

    campaigns: Sequence[CampaignStatus]


class CampaignPages:
    """The campaigns of an app. `get` returns the object that starts and stops them; its `store` has them."""

    def __init__(self, get: GetCampaigns, store: Store | None) -> None:
        self._get = get
        self._store = store

    def operations(self) -> Operations:
        """Return the operations by path and method."""
        posted = (404, 413, 415)
        return {
            "/campaigns": {
                "GET": Operation(self._list, "List the campaigns", (_LIMIT, NUMBERS), None, CampaignsList),
                "POST": Operation(
                    self._start,
                    "Start a campaign, or go on with it",
                    (NUMBERS,),
                    NewCampaign,
                    CampaignStatus,
                    202,
                    (409, 413, 415, 501),
                    example={"name": "visits", "calls": [{"to": "+12025550123", "context": {"visit": 7}}]},
                ),
            },
            "/campaigns/{id}": {
                "GET": Operation(
                    self._show, "Show a campaign", (_AFTER, _LIMIT, NUMBERS), None, CampaignPage, 200, (404,)
                )
            },
            "/campaigns/{id}/stop": {
                "POST": Operation(
                    self._stop, "Stop a campaign", (NUMBERS,), Stop, CampaignStatus, 202, posted, example={}
                )
            },
        }

    async def _start(self, request: Request) -> Response:
        full = full_numbers(request)
        body, _ = await read_body(request, NewCampaign, max_bytes=MAX_BODY_BYTES)
        listed = [NewCall(position=n, to=each.to, context=each.context) for n, each in enumerate(body.calls, 1)]
        try:
            campaign = await self._get().start(
                body.name,
                listed,
                region=body.region,
                strict=body.strict,
                do_not_call=body.do_not_call,
                rules=body.rules,
            )
        except OtherCampaign as error:
            raise Conflict(str(error)) from None
        except DefinitionError as error:
            raise BadRequest(str(error).replace("\n", "; ")) from None
        except ConfigurationError as error:
            return Problem(501, str(error))
        return _json(_status(campaign, full), 202)

    async def _list(self, request: Request) -> Response:
        limit, full = min(_LIMIT.read(request), MAX_LISTED), full_numbers(request)
        found = [] if self._store is None else await self._store.campaigns.latest(limit)
        return _json({"campaigns": [_status(each, full) for each in found]})

    async def _show(self, request: Request) -> Response:
        after, limit, full = _AFTER.read(request), _LIMIT.read(request), full_numbers(request)
        campaign = await self._find(request)
        if campaign is None or self._store is None:
            return Problem(404, _NONE)
        calls = await self._store.campaigns.calls(campaign.id, after=after, limit=limit + 1)
        following = calls[limit - 1].position if len(calls) > limit else None
        lines = [_line(each, full) for each in calls[:limit]]
        return _json({**_status(campaign, full), "calls": lines, "next": following})

    async def _stop(self, request: Request) -> Response:
        full = full_numbers(request)
        await read_body(request, Stop)
        campaign = await self._find(request)
        if campaign is None or self._store is None:
            return Problem(404, _NONE)
        await self._store.campaigns.stop(campaign.id)
        return _json(_status(await self._store.campaigns.find(campaign.id) or campaign, full), 202)

    async def _find(self, request: Request) -> Campaign | None:
        return None if self._store is None else await self._store.campaigns.find(request.path_params["id"])


def _status(campaign: Campaign, full: bool) -> dict[str, Any]:
    found = campaign.as_dict()
    if not full and found["rules"].get("from"):
        found["rules"]["from"] = masked(found["rules"]["from"])
    return found


def _line(call: CampaignCall, full: bool) -> dict[str, Any]:
    found = call.as_dict()
    return found if full or not call.to else {**found, "to": masked(call.to)}


def _json(content: dict[str, Any], status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, {"Cache-Control": "no-store"}, JSON)
