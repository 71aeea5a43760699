"""The control API: the calls, their recordings, the streams of their events, and the log of a call's messages.
`actions` acts on a call, and `listen` plays its audio.

It is an ASGI app that the phone app calls for paths that are not among its routes. A request with no answer here goes
on to `not_found`, and so does each request of a client that must not learn that the API exists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from phoneagent.agent.agent import Answerer
from phoneagent.agent.call import Call
from phoneagent.console import openapi, pages, schemas
from phoneagent.console.access import Access
from phoneagent.console.actions import Actions
from phoneagent.console.audio import Audio
from phoneagent.console.campaigns import CampaignPages, GetCampaigns
from phoneagent.console.commands import Commands
from phoneagent.console.dialing import Dialing
from phoneagent.console.feed import Feed
from phoneagent.console.gate import Gate
from phoneagent.console.listen import Listen, ListenIn
from phoneagent.console.listing import Listing, Look, State
from phoneagent.console.message_log import MessagePages, Messages
from phoneagent.console.operations import (
    NUMBERS,
    Choice,
    Method,
    Moment,
    Number,
    Operation,
    Operations,
    Text,
    full_numbers,
)
from phoneagent.console.problems import Problem
from phoneagent.console.setup import Setup
from phoneagent.console.signin import SignIn
from phoneagent.console.softphone import Softphone, turns_by_hand
from phoneagent.console.streaming import OpenStream, while_allowed
from phoneagent.console.web_session import WebCallMaker, WebSessions
from phoneagent.events import ControlOperation, EndedBy
from phoneagent.store import CallFilter, Store
from phoneagent.store.recordings import Recordings

if TYPE_CHECKING:
    from phoneagent.console.shared_feed import SharedFeed

MAX_LIMIT = 200
DEFAULT_LIMIT = 50
"""How many calls are on a page."""


MAX_READERS = 2000
"""How many event streams may be open or about to open at once."""

# without the last header, nginx would hold events back until they filled a buffer
_UNBUFFERED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

_NO_CALL = "this process has no such call, and none is recorded: GET /calls lists them"
_NO_EVENTS = "no events of such a call are kept: GET /calls/{sid} has what is recorded"
_STATE = Choice("state", State, "only calls in that state")
_LIMIT = Number("limit", 1, MAX_LIMIT, DEFAULT_LIMIT, "how many calls")
_FILTERS = (
    Text("party", "a part of either phone number"),
    Text("agent", "the name of an agent that spoke"),
    Choice("ended_by", EndedBy, "what ended the call"),
    Moment("since", "the first moment at which the calls began"),
    Moment("until", "the first moment that is too late"),
    Text("words", "what either side said"),
)
_LIST = (_STATE, _LIMIT, Text("after", "the `next` of the page before"), NUMBERS, *_FILTERS)
_ONE = (NUMBERS,)
_STREAM = (NUMBERS, Text("Last-Event-ID", "the id of the last event that the reader had", "header"))
_FULL = f"{MAX_READERS} streams of events are open: try again later"


class Console:
    """The API over the calls of one process and their records.

    Args:
        token: the bearer token for access, if there is one.
        local: whether programs on this machine need none.
        calls: the live calls by CallSid.
        look: returns the details of a live call for the list.
        leaving: tells whether a live call is over here, and its media stream still closing.
        store: the records, if there are any.
        recordings: the recordings, if calls are recorded.
        web_calls: returns the object that makes web calls.
        not_found: answers requests that the API does not.
        public_url: the URL at which browsers reach the app, if it differs from the request's.
        controlled: takes the sid of a call that is acted on from outside, and the operation.
        listen: lets one more listener hear a live call.
        messages: returns the logs of the calls' messages; None if there are none.
        campaigns: returns the campaigns. Raises `ConfigurationError` if the app makes no calls.
        softphone: the calls from the browser.
        setup: the setup page.
        dialing: the operations that make calls.
        feed: the calls' events for readers.
    """

    def __init__(
        self,
        *,
        token: SecretStr | None,
        local: bool,
        calls: Mapping[str, Call],
        look: Look,
        leaving: Callable[[str], bool],
        store: Store | None,
        web_calls: Callable[[], WebCallMaker],
        not_found: ASGIApp,
        public_url: str = "",
        controlled: Callable[[str, ControlOperation], None],
        listen: Listen,
        messages: Messages,
        campaigns: GetCampaigns,
        setup: Setup,
        dialing: Dialing,
        feed: Feed | SharedFeed,
        recordings: Recordings | None = None,
        softphone: Softphone | None = None,
    ) -> None:
        self.feed = feed
        self._listing = Listing(calls, look, self.feed.vitals, store)
        self._actions = Actions(calls, look, leaving, controlled, store)
        self._audio = Audio(recordings, store)
        self._readers: set[OpenStream] = set()
        self._opening = 0
        self.setup = setup
        more = (MessagePages(messages), self._actions, CampaignPages(campaigns, store))
        self._operations = self._all_operations(dialing, *(each.operations() for each in more))
        self.access = Access(token, local=local, public_url=public_url)
        gate = Gate(self.access, not_found)
        routes = [
            *[
                gate.route(path, {method: each.answer for method, each in methods.items()})
                for path, methods in self._operations.items()
            ],
            gate.socket("/calls/{sid}/audio", ListenIn(listen, self.access.still_allows).run),
            *SignIn(gate, public_url).routes(),
            *pages.routes(gate, calls.__contains__),
            *([] if softphone is None else softphone.routes(gate)),
            *setup.routes(gate),
            *WebSessions(web_calls).routes(gate),
            *[
                gate.route(path, {"GET": _unknown, "POST": _unknown})
                for path in ("/calls/{any:path}", "/campaigns/{any:path}")
            ],
        ]
        self._router = Router(routes, redirect_slashes=False, default=not_found)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._router(scope, receive, send)

    @property
    def commands(self) -> Commands | None:
        """The requests that processes pass to one another; None without a database."""
        return self._actions.commands

    def _all_operations(self, dialing: Dialing, *others: Operations) -> Operations:
        operations: dict[str, Mapping[Method, Operation]] = {
            "/calls": {
                "GET": Operation(self._list_calls, "List the calls", _LIST, None, schemas.CallsPage),
                "POST": dialing.make,
            },
            "/calls/outbound/{id}": {"GET": dialing.show},
            "/calls/{sid}": {
                "GET": Operation(self._show_call, "Show a call", _ONE, None, schemas.OneCall, 200, (404,))
            },
            "/calls/{sid}/events": {
                "GET": Operation(
                    self._stream_call, "Stream the events of a call", _STREAM, problems=(404,), further=(204,)
                )
            },
            "/calls/{sid}/audio.wav": {
                "GET": Operation(
                    self._send_audio,
                    "Send the recording of a call",
                    problems=(404, 416),
                    further=(206,),
                    media_type="audio/wav",
                )
            },
            "/events": {"GET": Operation(self._stream_all, "Stream the events of all calls", _STREAM)},
        }
        for more in others:
            operations.update(more)
        return {
            **operations,
            "/openapi.json": {"GET": Operation(self._describe, "Describe this API", result=dict[str, Any])},
        }

    def end_streams(self) -> None:
        """End everything that a stopping server would wait for."""
        self.feed.close()
        self.setup.end()

    def answerer(self, answerer: Answerer) -> Answerer:
        """Return the answerer of calls. In calls from the browser it applies the trial and their choice of turns."""
        return turns_by_hand(self.setup.trials.answerer(answerer))

    # --- calls ---

    async def _list_calls(self, request: Request) -> Response:
        page = await self._listing.page(
            _LIMIT.read(request),
            state=_STATE.read(request),
            cursor=request.query_params.get("after"),
            full=full_numbers(request),
            only=_filter(request),
        )
        return _json({"calls": page.calls, "next": page.cursor})

    async def _show_call(self, request: Request) -> Response:
        found = await self._listing.call(request.path_params["sid"], full=full_numbers(request))
        return Problem(404, _NO_CALL) if found is None else _json(found)

    async def _send_audio(self, request: Request) -> Response:
        return await self._audio.answer(request, request.path_params["sid"])

    async def _describe(self, request: Request) -> Response:
        return _json(openapi.document(self._operations, request.scope.get("root_path", "")))

    # --- events ---

    async def _stream_call(self, request: Request) -> Response:
        return await self._stream(request, request.path_params["sid"])

    async def _stream_all(self, request: Request) -> Response:
        return await self._stream(request, None)

    async def _stream(self, request: Request, call_sid: str | None) -> Response:
        full = full_numbers(request)
        if len(self._readers) + self._opening >= MAX_READERS:
            return Problem(503, _FULL, {"Retry-After": "10"})
        self._opening += 1  # a database that does not answer keeps them waiting
        try:
            stream = await self.feed.open(call_sid, request.headers.get("last-event-id"), full=full)
        finally:
            self._opening -= 1
        if stream == "unknown":
            return Problem(404, _NO_EVENTS)
        if stream == "over":
            return Response(status_code=204)  # a browser that reconnects after the end then stops
        stream = while_allowed(stream, partial(self.access.still_allows, request))
        return OpenStream(stream, self._readers, headers=_UNBUFFERED, media_type="text/event-stream")


def _json(content: dict[str, Any]) -> Response:
    return JSONResponse(content, headers={"Cache-Control": "no-store"})


def _filter(request: Request) -> CallFilter | None:
    """Return the filter of a request; None if it has none."""
    given: dict[str, Any] = {each.name: each.read(request) for each in _FILTERS}
    found = CallFilter(**given)
    return None if found == CallFilter() else found


async def _unknown(request: Request) -> Response:
    return Problem(404, "there is nothing at this path: GET /openapi.json lists what there is")
