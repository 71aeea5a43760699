"""Calls from the browser: the page `/console/phone`, which is a phone, and plays Twilio's part for it.

The page asks for a call, and gets the TwiML that Twilio would get. It opens the media socket that the TwiML names, with
the single-use token in it, and speaks the Media Streams protocol. When our side of the stream closes, it asks for the
next TwiML, as Twilio does; at the end it reports that the call is over. So a call from the browser takes the same path
as a phone call through admission, the choice of the agent, the hooks, the record and the metrics.

Twilio knows nothing about such a call. The page's requests are as trusted as those to the control API: see `Gate`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from html import escape
from typing import Annotated, Literal, TypeAlias
from urllib.parse import parse_qsl, urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute
from starlette.websockets import WebSocket

from phoneagent.agent.agent import Answer, Answerer, choose, choose_answer
from phoneagent.agent.call import Call
from phoneagent.agent.options import Turns
from phoneagent.console.body import read_body
from phoneagent.console.gate import Gate
from phoneagent.console.problems import BadRequest, Problem
from phoneagent.console.shell import page, template
from phoneagent.errors import DefinitionError, RequestRefused
from phoneagent.twilio import AFTER_PATH, BROWSER_MEDIA_PATH, STATUS_PATH, VOICE_PATH
from phoneagent.twilio.browser import is_browser_call, new_call_sid
from phoneagent.twilio.signatures import Ticket

CALLS_PATH = "/console/phone/calls"

CALLER = "client:browser"
"""The default caller ID of a call, in the form of Twilio's own browser calls."""

SOURCE = {"Source": "browser"}
"""The entry in `call.parameters` of a call from the browser."""

MAX_FIELDS = 100
"""The maximum number of fields in the query of a URL."""

Respond: TypeAlias = Callable[[str, Mapping[str, str]], Awaitable[str]]
Run: TypeAlias = Callable[[WebSocket, Awaitable[Ticket]], Awaitable[None]]
_Party: TypeAlias = Annotated[str, msgspec.Meta(max_length=256)]


class _Dial(msgspec.Struct, forbid_unknown_fields=True):
    """A call that begins, from and to these addresses. With manual turns, the page says where the turns end."""

    caller: _Party = ""
    called: _Party = ""
    turns: Literal["agent", "manual"] = "agent"


class _Next(_Dial, forbid_unknown_fields=True):
    """A call that is up and asks for the TwiML at `url`, or one that is over."""

    status: Literal["in-progress", "completed"] = "in-progress"
    url: Annotated[str, msgspec.Meta(max_length=4096)] = ""


class _Turn(msgspec.Struct, forbid_unknown_fields=True):
    """The press or the release of the caller's push-to-talk button."""

    turn: Literal["begin", "end"]


def turns_by_hand(answerer: Answerer) -> Answerer:
    """Return an answerer whose agent has manual turns in a call from the browser that asks for them."""

    async def answer(call: Call) -> Answer:
        if not is_browser_call(call.sid):
            return await choose_answer(answerer, call)
        agent = await choose(answerer, call)
        if call.parameters.get("Turns") == "manual":
            return replace(agent, turns=Turns(detection="manual"))
        return agent

    return answer


class Softphone:
    """The server side of calls from the browser.

    Args:
        respond: returns the TwiML of a webhook, given its path and its form.
        redeem: returns the ticket of a media token, and spends it; RequestRefused if it is not valid.
        run: runs the call of a media socket, whose ticket is awaited.
        calls: the live calls by CallSid.
        number: the number that is dialed if none is given.
    """

    def __init__(
        self,
        *,
        respond: Respond,
        redeem: Callable[[str], Awaitable[Ticket]],
        run: Run,
        calls: Mapping[str, Call],
        number: str | None,
    ) -> None:
        self._respond = respond
        self._redeem = redeem
        self._run = run
        self._calls = calls
        self._number = number

    def routes(self, gate: Gate) -> list[BaseRoute]:
        """Return the routes of the page, of its requests, and of its media sockets."""
        return [
            gate.route("/console/phone", {"GET": self._show}, page=True),
            gate.route(CALLS_PATH, {"POST": self._begin}),
            gate.route(CALLS_PATH + "/{sid}", {"POST": self._go_on}),
            gate.route(CALLS_PATH + "/{sid}/turn", {"POST": self._take_turn}),
            gate.socket(BROWSER_MEDIA_PATH + "{token}", self._run_media_socket),
        ]

    async def _show(self, request: Request) -> Response:
        body = template("phone.html").substitute(called=escape(self._number or ""), caller=escape(CALLER))
        return page(request, "Phone", body, module="phone.js", styles=["phone.css"])

    async def _begin(self, request: Request) -> Response:
        dialed, _ = await read_body(request, _Dial)
        call_sid = new_call_sid()
        text = await self._respond(VOICE_PATH, self._form(call_sid, dialed, "ringing"))
        return _answer(call_sid, text, 201)

    async def _go_on(self, request: Request) -> Response:
        call_sid = request.path_params["sid"]
        if not is_browser_call(call_sid):  # the page must not act for a phone of Twilio's
            return Problem(404, "this is not a call from the browser: POST /console/phone/calls begins one")
        asked, _ = await read_body(request, _Next)
        form = self._form(call_sid, asked, asked.status)
        if asked.status == "completed":
            await self._respond(STATUS_PATH, form)
            return Response(status_code=204)
        path, query = _place(asked.url)
        return _answer(call_sid, await self._respond(path, {**query, **form}), 200)

    async def _take_turn(self, request: Request) -> Response:
        """Begin the caller's turn, which interrupts the agent, or end it, so that the agent answers."""
        asked, _ = await read_body(request, _Turn)
        call = self._calls.get(request.path_params["sid"])
        if call is None or not is_browser_call(call.sid):
            return Problem(404, "this process has no such call from the browser")
        try:
            if asked.turn == "begin":
                call.clear()
                call.interrupt()
            else:
                call.commit()
                call.respond()
        except DefinitionError as error:
            return Problem(409, str(error))
        return Response(status_code=204)

    async def _run_media_socket(self, websocket: WebSocket) -> None:
        await self._run(websocket, self._ticket(websocket.path_params["token"]))

    async def _ticket(self, token: str) -> Ticket:
        ticket = await self._redeem(token)
        if not is_browser_call(ticket.call_sid):
            raise RequestRefused("a media token is of a phone call, which only Twilio may carry")
        return ticket

    def _form(self, call_sid: str, dialed: _Dial, status: str) -> dict[str, str]:
        """Return the form that Twilio would send with a request about a call."""
        turns = {"Turns": dialed.turns} if dialed.turns == "manual" else {}
        return {
            **SOURCE,
            **turns,
            "CallSid": call_sid,
            "CallStatus": status,
            "Direction": "inbound",
            "From": dialed.caller.strip() or CALLER,
            "To": dialed.called.strip() or self._number or "",
        }


def _place(url: str) -> tuple[str, dict[str, str]]:
    """Return the path and the query of a URL in our TwiML. The host is ignored: it is always us.

    Raises:
        BadRequest: it is not such a URL.
    """
    try:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, max_num_fields=MAX_FIELDS))
        path = next(each for each in (VOICE_PATH, AFTER_PATH) if parts.path.endswith(each))
    except (ValueError, StopIteration):
        raise BadRequest(f"url does not end in {VOICE_PATH} or {AFTER_PATH}: take it from the TwiML") from None
    return path, query


def _answer(call_sid: str, twiml: str, status: int) -> Response:
    return JSONResponse({"call_sid": call_sid, "twiml": twiml}, status, {"Cache-Control": "no-store"})
