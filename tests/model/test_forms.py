"""A form that is filled in at a Realtime server: against the simulated model, and against odd servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Never

import pytest

from phoneagent import Agent, Endpoint, EndpointRefused, EndpointUnreachable
from phoneagent.model import forms
from phoneagent.model.connection import open_session
from phoneagent.model.forms import FUNCTION, Form, SessionFiller, session_of
from phoneagent.protocol import realtime
from phoneagent.sim import Faults, Model, Script
from phoneagent.sim.model.service import ANY_BETA

pytestmark = pytest.mark.anyio
SCHEMA = {"type": "object", "properties": {"guests": {"type": "integer"}}, "required": ["guests"]}
FORM = Form("Booking", SCHEMA, "Fill in the form.", '{"caller": "A table for four."}')
AGENT = Agent(instructions="You answer.", greeting="Hello!")


@asynccontextmanager
async def filler_at(model: Model) -> AsyncIterator[SessionFiller]:
    endpoint = Endpoint(f"{model.url}?model=gpt-realtime-2.1")
    session = session_of(FORM, AGENT.session(FORM.instructions, written=True))
    made = SessionFiller(await open_session(endpoint, session), FORM)
    yield made
    await made.close()


@pytest.mark.parametrize("options", [{}, {"service": ANY_BETA}, {"dialect": "localai"}], ids=["ga", "beta", "localai"])
async def test_the_model_is_made_to_call_the_function(options: dict[str, Any]) -> None:
    async with Model(Script.parse("outcome = [{ guests = 0 }, { guests = 4 }]"), **options) as model:
        async with filler_at(model) as filler:
            first = await filler.fill()
            second = await filler.fill("guests must be more than 0")
        (session,) = model.sessions
        assert (json.loads(first.text), json.loads(second.text)) == ({"guests": 0}, {"guests": 4})
        assert (first.problem, second.problem) == (None, None)
        assert first.model == "gpt-realtime-2.1"
        assert (first.read is not None) == (options.get("dialect") != "localai")  # which reports no usage
        assert session.session["output_modalities"] == ["text"]
        assert [each["name"] for each in session.session["tools"]] == [FUNCTION]
        assert [call.name for call in session.tool_calls] == [FUNCTION] * 2
        outputs = [item["output"] for item in session.items if item["type"] == "function_call_output"]
        assert outputs == ['{"error": "guests must be more than 0"}']
        assert model.violations == []
        assert session.audio_items == []


async def test_without_a_script_the_simulated_model_makes_up_what_the_schema_allows() -> None:
    async with Model() as model, filler_at(model) as filler:
        assert json.loads((await filler.fill()).text) == {"guests": 1}


async def test_a_response_that_failed_may_succeed_later() -> None:
    async with Model(faults=Faults(fail_responses=1)) as model, filler_at(model) as filler:
        with pytest.raises(EndpointUnreachable, match="the model failed: server_error"):
            await filler.fill()
        assert (await filler.fill()).problem is None


async def test_an_endless_silence_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "ANSWER_SECONDS", 0.2)
    server = OddServer()
    with pytest.raises(EndpointUnreachable, match=r"has not filled in the form within 0\.2 s"):
        await server.filler.fill()
    await server.filler.close()


class OddServer:
    """A model session whose server answers a request with these events."""

    def __init__(self, *events: dict[str, Any], dropped: Iterable[str] = ()) -> None:
        self.dropped = list(dropped)
        self.effective = {"model": "odd"}
        self.written: list[Any] = []
        self.closed = self.aborted = False
        self._events = [json.dumps(event).encode() for event in events]
        self._take: Callable[[bytes], None] | None = None
        self._lost: asyncio.Future[Never] = asyncio.get_running_loop().create_future()
        self.filler = SessionFiller(self, FORM)  # type: ignore[arg-type]

    def write(self, messages: Iterable[realtime.ToModel]) -> None:
        self.written += messages
        asyncio.get_running_loop().call_soon(self._answer)

    def _answer(self) -> None:
        assert self._take is not None
        for event in self._events:
            self._take(event)

    async def read(self, take: Callable[[bytes], None], resumed: Callable[[], None]) -> Never:
        self._take = take
        return await self._lost

    def lose(self, error: Exception) -> None:
        self._lost.set_exception(error)

    def abort(self) -> None:
        self.aborted = True
        self.lose(EndpointUnreachable("it was dropped"))

    async def close(self) -> None:
        self.closed = True


def done(status: str = "completed", **response: Any) -> dict[str, Any]:
    return {"type": "response.done", "response": {"id": "r", "status": status, **response}}


CALL = {"type": "function_call", "call_id": "c1", "name": FUNCTION, "arguments": '{"guests": 4}'}


@pytest.mark.parametrize(
    "events",
    [
        [{"type": "response.output_item.done", "response_id": "r", "item": CALL}, done()],
        [
            {"type": "response.function_call_arguments.done", **CALL, "response_id": "r", "item_id": "i"}
            | {"type": "response.function_call_arguments.done"},
            done(),
        ],
        [done(output=[CALL])],
        [
            {"type": "response.output_text.delta", "response_id": "r", "item_id": "i", "delta": '{"guests"'},
            {"type": "response.output_text.delta", "response_id": "r", "item_id": "i", "delta": ": 4}"},
            done(),
        ],
        [{"type": "error", "error": {"code": "odd", "message": "of something else"}}, done(output=[CALL])],
    ],
    ids=["item", "arguments", "only the end", "text", "an error of something else"],
)
async def test_the_answer_is_found_wherever_a_server_writes_it(events: list[dict[str, Any]]) -> None:
    server = OddServer(*events)
    filling = await server.filler.fill()
    assert (filling.text, filling.problem, filling.model, filling.read) == ('{"guests": 4}', None, "odd", None)
    await server.filler.close()
    assert server.closed


@pytest.mark.parametrize(
    ("event", "problem"),
    [
        (done(), "the model answered with nothing"),
        (
            done("incomplete", status_details={"reason": "max_output_tokens"}),
            "the answer was cut off (max_output_tokens)",
        ),
        (done("incomplete"), "the answer was cut off (no reason given)"),
    ],
)
async def test_an_answer_without_a_form_is_a_problem(event: dict[str, Any], problem: str) -> None:
    server = OddServer(event)
    assert (await server.filler.fill()).problem == problem
    assert (await server.filler.fill("write it")).problem == problem
    (again,) = (each.item for each in server.written[2:] if isinstance(each, realtime.ItemCreate))
    assert (again["role"], again["content"][0]["text"]) == ("system", "write it")
    await server.filler.close()


async def test_a_schema_that_the_server_refuses_is_the_problem() -> None:
    server = OddServer(done(), dropped=[f"the tool {FUNCTION} (invalid_value: no)"])
    refused = "the model's server refuses the tool save_outcome (invalid_value: no)"
    assert (await server.filler.fill()).problem == refused
    await server.filler.close()


@pytest.mark.parametrize(
    ("event", "kind", "words"),
    [
        (done("failed"), EndpointUnreachable, "the model failed: no reason given"),
        (
            done("failed", status_details={"error": {"code": "insufficient_quota", "message": "pay"}}),
            EndpointRefused,
            "the model failed: insufficient_quota: pay",
        ),
        (done("cancelled"), EndpointUnreachable, "canceled the answer"),
        ({"type": "error", "error": {"code": "invalid_api_key", "message": "no"}}, EndpointRefused, "invalid_api_key"),
        (
            {"type": "error", "error": {"code": "invalid_value", "message": "no", "event_id": "form_1"}},
            EndpointUnreachable,
            "refused to fill in the form: invalid_value: no",
        ),
    ],
)
async def test_a_server_that_fails_is_an_endpoint_error(
    event: dict[str, Any], kind: type[Exception], words: str
) -> None:
    server = OddServer(event)
    with pytest.raises(kind, match=words):
        await server.filler.fill()
    await server.filler.close()


async def test_a_session_that_breaks_off_is_told() -> None:
    server = OddServer()
    filling = asyncio.create_task(server.filler.fill())
    server.lose(EndpointUnreachable("the model's socket broke without a close"))
    with pytest.raises(EndpointUnreachable, match="broke"):
        await filling
    await server.filler.close()


async def test_a_flood_is_dropped() -> None:
    flood = [{"type": "response.output_text.delta", "response_id": "r", "item_id": "i", "delta": "a"}]
    server = OddServer(*flood * (forms.MAX_WAITING + 2), {"type": "odd"})
    server.abort = lambda: setattr(server, "aborted", True)  # type: ignore[method-assign]
    filling = asyncio.create_task(server.filler.fill())
    while not server.aborted:
        await asyncio.sleep(0)
    filling.cancel()
    await asyncio.gather(filling, return_exceptions=True)
    await server.filler.close()


async def test_what_cannot_be_read_is_left_out() -> None:
    server = OddServer(done(output=[CALL]))
    server._events.insert(0, b"\xff not json")
    assert (await server.filler.fill()).text == '{"guests": 4}'
    await server.filler.close()


async def test_a_caller_is_in_no_repr() -> None:
    assert "table" not in repr(FORM)
