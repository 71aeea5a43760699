"""A form that a model fills in, outside any call: in a separate text session at a Realtime server.

The form is a function whose call is forced. Its parameters are the form's fields.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from phoneagent.billing import usage
from phoneagent.errors import EndpointError, EndpointRefused, EndpointUnreachable, ProtocolError
from phoneagent.model.connection import ModelSession
from phoneagent.protocol import realtime
from phoneagent.protocol.items import system_message, tool_output, user_message
from phoneagent.protocol.negotiation import words_of
from phoneagent.protocol.session_object import model_of

FUNCTION = "save_outcome"
"""The name of the function that is called with the filled form."""

ANSWER_SECONDS = 45.0
"""How long the model may take for one answer."""

MAX_ANSWER_TOKENS = 4_096
"""The most tokens that the Realtime API allows in a response."""

MAX_TEXT_CHARS = 64 * 1024
MAX_WAITING = 1_000
"""How many events may wait to be read; an answer has only a handful."""


@dataclass(frozen=True, slots=True)
class Form:
    """A form: the JSON schema of its fields, the instructions, and the text that it is filled in from."""

    name: str
    schema: dict[str, Any]
    instructions: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Filling:
    """One answer of a model: JSON, or the problem that kept it from writing any. `read` is its usage as reported."""

    model: str
    read: usage.Reading | None
    text: str = field(default="", repr=False)
    problem: str | None = None


class FormFiller(Protocol):
    """A model that fills in one form, and tries again when told what is wrong."""

    async def fill(self, complaint: str | None = None) -> Filling:
        """Return the next answer. Raises `EndpointError`."""

    async def close(self) -> None: ...


def session_of(form: Form, agents: dict[str, Any]) -> dict[str, Any]:
    """Return the session in which a form is filled in, made from an agent's text session, which its server accepts."""
    function = {
        "type": "function",
        "name": FUNCTION,
        "description": f"Save the filled form {form.name}.",
        "parameters": form.schema,
    }
    return agents | {
        "tools": [function],
        "tool_choice": {"type": "function", "name": FUNCTION},
        "max_output_tokens": MAX_ANSWER_TOKENS,
    }


_Read: TypeAlias = (
    realtime.OutputItemDone | realtime.ArgumentsDone | realtime.TextDelta | realtime.ResponseDone | realtime.Error
)


class SessionFiller:
    """Fills in a form in a model session that is open and configured by `session_of`."""

    def __init__(self, model: ModelSession, form: Form) -> None:
        self._model = model
        self._form = form
        self._name = model_of(model.effective)  # the session forgets it once it is read
        self._events: asyncio.Queue[_Read | EndpointError] = asyncio.Queue()
        self._reader = asyncio.create_task(self._read())
        self._asked = 0
        self._call_id: str | None = None

    async def close(self) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._model.close()

    async def fill(self, complaint: str | None = None) -> Filling:
        self._asked += 1
        self._model.write(
            [
                realtime.ItemCreate(item=self._item(complaint)),
                realtime.ResponseCreate(event_id=self._event_id, response={}),
            ]
        )
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._answer()
        except TimeoutError:
            words = f"the model has not filled in the form within {ANSWER_SECONDS:g} s"
            raise EndpointUnreachable(words, code="timeout") from None

    @property
    def _event_id(self) -> str:
        return f"form_{self._asked}"

    def _item(self, complaint: str | None) -> dict[str, Any]:
        if complaint is None:
            return user_message(self._form.text)
        if self._call_id is None:  # it wrote text instead of calling the function
            return system_message(complaint)
        return tool_output(self._call_id, json.dumps({"error": complaint}))

    async def _answer(self) -> Filling:
        arguments: str | None = None
        written = ""
        self._call_id = None
        while True:
            match await self._events.get():
                case EndpointError() as error:
                    raise error
                case realtime.OutputItemDone(item=item) if item.type == "function_call":
                    arguments, self._call_id = item.arguments, item.call_id
                case realtime.ArgumentsDone() as done:
                    arguments = arguments or done.arguments
                    self._call_id = self._call_id or done.call_id
                case realtime.TextDelta(delta=delta):
                    written = (written + delta)[:MAX_TEXT_CHARS]
                case realtime.ResponseDone(response=response):
                    for item in response.output or ():
                        if arguments is None and item.type == "function_call":
                            arguments, self._call_id = item.arguments, item.call_id
                    return self._filling(response, arguments or written)
                case realtime.Error(error=failure):
                    self._failed(failure)
                case _:
                    pass

    def _filling(self, response: realtime.Response, text: str) -> Filling:
        details = response.status_details
        failure = details.error if details is not None else None
        if response.status == "failed":
            words = f"the model failed: {'no reason given' if failure is None else words_of(failure)}"
            fatal = failure is not None and {failure.code, failure.type} & realtime.FATAL_CODES
            kind = EndpointRefused if fatal else EndpointUnreachable
            raise kind(words, code=None if failure is None else failure.code)
        if response.status == "cancelled":
            raise EndpointUnreachable("the model's server canceled the answer", code="cancelled")
        problem = None
        if response.status == "incomplete":
            problem = f"the answer was cut off ({details.reason if details is not None else 'no reason given'})"
        elif (refused := next((each for each in self._model.dropped if f" {FUNCTION} " in each), None)) is not None:
            problem = f"the model's server refuses {refused}"
        elif not text.strip():
            problem = "the model answered with nothing"
        return Filling(self._name, usage.of_response(response.usage), text, problem)

    def _failed(self, failure: realtime.Failure) -> None:
        words = f"the model refused to fill in the form: {words_of(failure)}"
        if {failure.code, failure.type} & realtime.FATAL_CODES:
            raise EndpointRefused(words, code=failure.code)
        if failure.event_id == self._event_id:
            raise EndpointUnreachable(words, code=failure.code)

    async def _read(self) -> None:
        try:
            await self._model.read(self._take, lambda: None)
        except EndpointError as error:
            self._events.put_nowait(error)

    def _take(self, raw: bytes) -> None:
        try:
            event = realtime.decode(raw)
        except ProtocolError:
            return  # the time limit decides
        if isinstance(event, _Read):
            self._events.put_nowait(event)
            if self._events.qsize() > MAX_WAITING:
                self._model.abort()
