"""The responses of a simulated session: which one is active, and when another one may begin."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from phoneagent.sim.model.checks import EventRefused, invalid_value
from phoneagent.sim.model.config import (
    Json,
    check_model_options,
    check_response,
    check_tool_choice,
    check_voice,
    given,
)
from phoneagent.sim.model.dialect import response_from_beta
from phoneagent.sim.model.mcp import McpServers
from phoneagent.sim.model.response import Response
from phoneagent.sim.model.state import SessionState

RACE_SECONDS = 1.0
"""A `response.create` may collide with one that the server began less than this ago: the client could not know."""

MAX_OUT_OF_BAND = 16
"""How many responses outside the conversation may run at the same time."""


class Responses:
    """All responses of one session: at most one in the conversation, and some out of band.

    `played_in(ms)` is called when the active response ends, with how long its audio will still play, and with None when
    the active response begins.
    """

    def __init__(self, state: SessionState, played_in: Callable[[int | None], None]) -> None:
        self.mcp = McpServers(state, self._follow_up)
        self._state = state
        self._played_in = played_in
        self._active: Response | None = None
        self._out_of_band: dict[str, Response] = {}

    def start(self, by: Literal["vad", "server"]) -> None:
        """Begin a response without a request from the client. If it is refused, the client gets an `error`."""
        try:
            self.create({}, by)
        except EventRefused as refused:
            self._state.send_error(refused, None)

    def create(self, params: Json, by: Literal["vad", "client", "server"]) -> None:
        """Begin a response; `params` are those of a `response.create`. Raises `EventRefused`."""
        if self._state.only_transcribes:
            raise invalid_value("This session only transcribes: it makes no responses.", "type")
        written, params = params, self._checked(params)
        for complaint in self._state.setup.stand_in.complaints(response=written):
            self._state.send_error(complaint, None)
        out_of_band = params.get("conversation") == "none"
        if not out_of_band and self._active is not None and not self._state.setup.stand_in.one_response:
            self._active.cancel("client_cancelled")
        if not out_of_band and self._active is not None:
            record = self._active.record
            racing = record.by != "client" and time.monotonic() - record.created_at < RACE_SECONDS
            message = f"Conversation already has an active response in progress: {record.id}. "
            message += "Wait until the response is finished before creating a new one."
            code = "conversation_already_has_active_response"
            raise EventRefused(message, code=code, blame="race" if racing else "client")
        if out_of_band and len(self._out_of_band) >= MAX_OUT_OF_BAND:
            raise EventRefused("Too many responses in progress.", code="rate_limit_exceeded")
        response = Response(self._state, self.mcp, params, by, self._ended)
        self._state.responses.append(response.record)
        if out_of_band:
            self._out_of_band[response.record.id] = response
        else:
            self._active = response
            self._played_in(None)

    def _checked(self, params: Json) -> Json:
        state = self._state
        if state.dialect == "beta":
            params = response_from_beta(params)
        else:
            check_response(params)
            params = given(params)
        check_model_options(state.model, params, "response")
        check_tool_choice(state.session, params)
        check_voice(state.session, params, spoke=bool(state.audio_items), at="response")
        if "input" in params:
            resolve = state.conversation.resolve
            items = [resolve(item, f"response.input[{index}]") for index, item in enumerate(params["input"])]
            params = {**params, "input": items}
        return params

    def cancel(self, response_id: str | None) -> None:
        """Cancel a response for the client: the active one, or the one that it names. Raises `EventRefused`."""
        response = self._active
        if response_id is not None and (response is None or response.record.id != response_id):
            response = self._out_of_band.get(response_id)
        if response is None:
            message = "Cancellation failed: no active response found"
            raise EventRefused(message, code="response_cancel_not_active", blame="race")
        response.cancel("client_cancelled")

    def interrupt(self) -> None:
        """Cancel the active response, if there is one: the caller speaks."""
        if self._active is not None:
            self._active.cancel("turn_detected")

    def _ended(self, response: Response, remaining_ms: int) -> None:
        if self._active is response:
            self._active = None
            self._played_in(remaining_ms)
        self._out_of_band.pop(response.record.id, None)
        self._follow_up()

    def _follow_up(self) -> None:
        """Begin the response that follows MCP calls by itself, if one is owed and none is active."""
        if self._active is None and self.mcp.take_owed() and self._state.conversation.news():
            self.start("server")
