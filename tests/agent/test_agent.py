"""Agents, and tools: schemas, arguments, and the promise that whatever happens becomes an answer to the model."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from phoneagent import Agent, Call, DefinitionError, Hearing, Limits, Tool, ToolError, Turns, Voice, hang_up, tool
from phoneagent.agent.agent import choose

pytestmark = pytest.mark.anyio


class Control:
    """Stands for the live call."""

    def __init__(self) -> None:
        self.done: list[Any] = []

    def say(self, text: str) -> None:
        self.done.append(("say", text))

    def interrupt(self) -> None:
        self.done.append("interrupt")

    def hang_up(self, *, goodbye: bool) -> None:
        self.done.append(("hang_up", goodbye))

    def add(self, text: str, role: str) -> None:
        self.done.append(("add", text, role))

    def respond(self, instructions: str | None, tools: Sequence[Tool] | None) -> None:
        self.done.append(("respond", instructions, tools))

    def commit(self) -> None:
        self.done.append("commit")

    def clear(self) -> None:
        self.done.append("clear")


@pytest.fixture
def call() -> Call:
    return Call(sid="CA1", caller="+15550100001", called=None, direction="inbound", started_at=datetime.now(UTC))


def error_of(output: str) -> str:
    return str(json.loads(output)["error"])


# --- schemas ---


def test_schema_comes_from_the_signature_and_the_docstring() -> None:
    @tool
    async def book(
        call: Call, guests: Annotated[int, Field(ge=1)], time: str, where: Literal["in", "out"] = "in"
    ) -> str:
        """Book a table."""
        return ""

    assert book.name == "book"
    assert book.description == "Book a table."
    assert book.parameters == {
        "type": "object",
        "properties": {
            "guests": {"type": "integer", "minimum": 1},
            "time": {"type": "string"},
            "where": {"type": "string", "enum": ["in", "out"], "default": "in"},
        },
        "required": ["guests", "time"],
        "additionalProperties": False,
    }
    assert book.definition()["type"] == "function"


def test_names_and_descriptions_can_be_given() -> None:
    @tool(name="look-up", description="Look it up.", timeout=3)
    def anything() -> None: ...

    assert (anything.name, anything.description, anything.timeout) == ("look-up", "Look it up.", 3)


def variadic(*numbers: int) -> None: ...
def positional(number: int, /) -> None: ...
def unresolvable(number: "Missing") -> None: ...  # type: ignore[name-defined]  # noqa: F821, UP037


@pytest.mark.parametrize("function", [variadic, positional, unresolvable])
def test_signatures_that_cannot_work_are_refused_at_once(function: Callable[..., None]) -> None:
    with pytest.raises(DefinitionError, match=function.__name__):
        tool(function)


@pytest.mark.parametrize("name", ["", "two words", "é", "x" * 65])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(DefinitionError, match="letters, digits"):
        Tool(name=name, description="", parameters={}, handler=print)


def test_a_timeout_is_positive() -> None:
    with pytest.raises(DefinitionError, match="timeout"):
        Tool(name="x", description="", parameters={}, handler=lambda arguments: None, timeout=0)


@pytest.mark.parametrize(("option", "value"), [("filler", " "), ("filler_after", -1)])
def test_a_filler_is_said_at_some_time(option: str, value: Any) -> None:
    with pytest.raises(DefinitionError, match=option.split("_")[0]):
        Tool(name="x", description="", parameters={}, handler=lambda arguments: None, **{option: value})


# --- running ---


async def test_an_async_tool_gets_checked_arguments_and_the_call(call: Call) -> None:
    @tool
    async def book(guests: int, call: Call, when: datetime) -> str:
        return f"{guests} {call.sid} {when.year}"

    assert await book.run(call, '{"guests": 4, "when": "2026-11-20T19:30:00"}') == "4 CA1 2026"


async def test_a_plain_tool_runs_in_a_thread(call: Call) -> None:
    @tool
    def where() -> bool:
        return threading.current_thread() is threading.main_thread()

    assert await where.run(call, "{}") == "false"


class Guest(BaseModel):
    name: str


@dataclass
class Booking:
    guest: str
    at: datetime


async def test_rich_arguments_and_results(call: Call) -> None:
    @tool
    async def book(guest: Guest) -> Booking:
        return Booking(guest.name, datetime(2026, 11, 20, tzinfo=UTC))

    output = await book.run(call, '{"guest": {"name": "Ann"}}')
    assert json.loads(output) == {"guest": "Ann", "at": "2026-11-20T00:00:00Z"}


async def test_a_tool_by_hand_gets_a_dict(call: Call) -> None:
    def handler(arguments: dict[str, Any], call: Call) -> Any:
        return {"sid": call.sid, **arguments}

    by_hand = Tool(name="echo", description="", parameters={"type": "object"}, handler=handler)
    assert json.loads(await by_hand.run(call, '{"a": [1]}')) == {"sid": "CA1", "a": [1]}
    plain = Tool(name="echo", description="", parameters={}, handler=lambda arguments: len(arguments))
    assert await plain.run(call, "") == "0"


@tool
async def add(a: int, b: int = 1) -> int:
    return a + b


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("{", "EOF"),
        ("[]", "arguments"),
        ("{}", "a: Field required"),
        ('{"a": "x"}', "a: Input should be a valid integer"),
        ('{"a": 1, "c": 2}', "c: Extra inputs"),
        ('"' + "x" * 300_000 + '"', "too long"),
    ],
)
async def test_bad_arguments_are_told_to_the_model(call: Call, arguments: str, complaint: str) -> None:
    assert complaint in error_of(await add.run(call, arguments))


@pytest.mark.parametrize("arguments", ["nonsense", "[1]"])
async def test_bad_arguments_of_a_tool_by_hand(call: Call, arguments: str) -> None:
    by_hand = Tool(name="echo", description="", parameters={}, handler=lambda arguments: arguments)
    assert "JSON" in error_of(await by_hand.run(call, arguments))


async def test_a_tool_error_speaks_to_the_model_any_other_does_not(
    call: Call, caplog: pytest.LogCaptureFixture
) -> None:
    @tool
    async def full() -> None:
        raise ToolError("no table is free")

    @tool
    def broken() -> None:
        raise RuntimeError("password=hunter2")

    assert error_of(await full.run(call, "{}")) == "no table is free"
    assert error_of(await broken.run(call, "{}")) == "broken failed"
    assert [record.message for record in caplog.records] == ["tool broken failed"]


async def test_a_slow_tool_is_answered_for(call: Call) -> None:
    never = asyncio.Event()

    @tool(timeout=0.01)
    async def slow() -> None:
        await never.wait()

    assert "outcome is unknown" in error_of(await slow.run(call, "{}"))


async def test_a_thread_that_hangs_is_left_behind(call: Call) -> None:
    release = threading.Event()

    @tool(timeout=0.01)
    def stuck() -> None:
        release.wait()

    try:
        assert "outcome is unknown" in error_of(await stuck.run(call, "{}"))
    finally:
        release.set()


async def test_a_tool_cannot_end_the_process_nor_leave_the_model_without_an_answer(call: Call) -> None:
    @tool
    def leave() -> None:
        raise SystemExit(3)

    @tool
    async def leave_at_once() -> None:
        raise SystemExit(3)

    @tool
    async def cancelled() -> None:
        raise asyncio.CancelledError  # as awaiting a task does that somebody cancelled

    for each in (leave, leave_at_once, cancelled):
        assert error_of(await each.run(call, "{}")) == f"{each.name} failed"


async def test_a_tool_that_is_cancelled_from_outside_is_cancelled(call: Call) -> None:
    begun, never = asyncio.Event(), asyncio.Event()

    @tool
    async def waits() -> None:
        begun.set()
        await never.wait()

    task = asyncio.create_task(waits.run(call, "{}"))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_text_that_no_socket_takes_is_made_sendable(call: Call) -> None:
    @tool
    async def odd() -> str:
        return "caf\udce9"

    @tool
    async def odd_failure() -> str:
        raise ToolError("caf\udce9")

    assert await odd.run(call, "{}") == "caf?"
    assert error_of(await odd_failure.run(call, "{}")) == "caf?"


async def test_results_that_are_no_answer(call: Call) -> None:
    @tool
    async def strange() -> object:
        return object()

    @tool
    async def endless() -> str:
        return "x" * 100_000

    assert "JSON" in error_of(await strange.run(call, "{}"))
    assert "too much" in error_of(await endless.run(call, "{}"))


async def test_hang_up_hangs_up(call: Call) -> None:
    control = Control()
    call.attach(control)
    await hang_up.run(call, "{}")
    assert control.done == [("hang_up", True)]


# --- the call ---


def test_a_call_reaches_its_session_only_while_it_lives(call: Call) -> None:
    call.say("before")
    control = Control()
    call.attach(control)
    call.say("hello")
    call.interrupt()
    call.hang_up(goodbye=False)
    call.attach(None)
    call.say("after")
    call.interrupt()
    call.hang_up()
    assert control.done == [("say", "hello"), "interrupt", ("hang_up", False)]


def test_no_phone_number_in_a_repr(call: Call) -> None:
    assert "+1555" not in repr(call)


# --- agents ---


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(DefinitionError, match="two tools named 'add'"):
        Agent(instructions="", tools=[add, add])


def test_an_undecorated_function_is_refused() -> None:
    with pytest.raises(DefinitionError, match="decorate it with @tool"):
        Agent(instructions="", tools=[print])  # type: ignore[list-item]


async def test_instructions_may_depend_on_the_call(call: Call) -> None:
    async def later(call: Call) -> str:
        return f"later {call.sid}"

    assert await Agent(instructions="fixed").instructions_for(call) == "fixed"
    assert await Agent(instructions=lambda call: f"now {call.sid}").instructions_for(call) == "now CA1"
    assert await Agent(instructions=later).instructions_for(call) == "later CA1"
    assert await Agent(instructions=lambda call: "caf\udce9").instructions_for(call) == "caf?"
    with pytest.raises(DefinitionError, match="return NoneType, not text"):
        await Agent(instructions=lambda call: None).instructions_for(call)  # type: ignore[arg-type,return-value]


async def test_plain_instructions_do_not_hold_up_other_calls(call: Call) -> None:
    def slow(call: Call) -> str:
        assert threading.current_thread() is not threading.main_thread()
        return "x"

    assert await Agent(instructions=slow).instructions_for(call) == "x"


def test_session_configuration() -> None:
    agent = Agent(
        instructions="",
        tools=[add],
        turns=Turns(threshold=0.7),
        hearing=Hearing(language="fr"),
        limits=Limits(max_output_tokens=100),
        extra={"audio": {"output": {"speed": 1.1}}, "max_output_tokens": 500},
    )
    session = agent.session("Be brief.")
    assert session["instructions"] == "Be brief."
    assert session["audio"]["input"] == {
        "format": {"type": "audio/pcmu"},
        "turn_detection": {
            "type": "server_vad",
            "threshold": 0.7,
            "prefix_padding_ms": 300,
            "silence_duration_ms": 500,
            "create_response": True,
            "interrupt_response": False,
        },
        "transcription": {"language": "fr"},
    }
    assert session["audio"]["output"] == {"format": {"type": "audio/pcmu"}, "voice": "marin", "speed": 1.1}
    assert session["max_output_tokens"] == 500
    assert [each["name"] for each in session["tools"]] == ["add"]


def test_without_barge_in_we_ask_for_each_response_ourselves() -> None:
    session = Agent(instructions="", barge_in=False).session("")
    assert session["audio"]["input"]["turn_detection"]["create_response"] is False


def test_voices_turns_and_limits_are_written_into_the_session() -> None:
    agent = Agent(
        instructions="",
        voice=Voice("voice_1234", speed=0.9),
        tools=[add],
        tool_choice="add",
        turns=Turns(detection="semantic_vad", eagerness="low"),
        hearing=Hearing(models=(), language="fr", noise_reduction="near_field"),
        limits=Limits(retention_ratio=0.8, post_instructions_tokens=8000, reasoning_effort="low"),
    )
    session = agent.session("")
    assert session["audio"]["output"]["voice"] == {"id": "voice_1234"}
    assert session["audio"]["output"]["speed"] == 0.9
    assert session["audio"]["input"] == {
        "format": {"type": "audio/pcmu"},
        "turn_detection": {
            "type": "semantic_vad",
            "eagerness": "low",
            "create_response": True,
            "interrupt_response": False,
        },
        "noise_reduction": {"type": "near_field"},
    }
    assert session["tool_choice"] == {"type": "function", "name": "add"}
    assert session["reasoning"] == {"effort": "low"}
    assert session["truncation"] == {
        "type": "retention_ratio",
        "retention_ratio": 0.8,
        "token_limits": {"post_instructions": 8000},
    }


def test_what_nobody_set_is_left_to_the_server() -> None:
    session = Agent(instructions="").session("")
    assert session.keys() == {"type", "output_modalities", "instructions", "audio", "tools", "tool_choice"}
    assert session["audio"]["input"].keys() == {"format", "turn_detection"}
    assert session["audio"]["output"].keys() == {"format", "voice"}


def test_turns_by_hand_and_from_extra() -> None:
    assert Agent(instructions="", turns=Turns(detection="manual")).turn_detection is None
    assert Agent(instructions="", extra={"audio": {"input": {"turn_detection": None}}}).turn_detection is None


def test_a_conversation_in_writing_is_the_same_but_for_the_sound() -> None:
    agent = Agent(instructions="", tools=[add], turns=Turns(idle_timeout_ms=5000), extra={"max_output_tokens": 9})
    spoken, written = agent.session("Be brief."), agent.session("Be brief.", written=True)
    assert written["output_modalities"] == ["text"]
    assert written["audio"]["input"]["turn_detection"] is None
    assert {key for key in spoken if spoken[key] != written[key]} == {"output_modalities", "audio"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tool_choice": "divide"}, "tool_choice='divide': choose one of 'auto', 'none', 'required', 'add'"),
        ({"turns": "server_vad"}, "turns='server_vad': make it a Turns"),
        ({"hearing": "fr"}, "hearing='fr': make it a Hearing"),
        ({"limits": 500}, "limits=500: make it a Limits"),
        ({"extra": []}, r"extra=\[\]: make it a Mapping"),
        ({"voice": ""}, "Voice.name is '': write text"),
        ({"instructions": None}, "instructions that are neither text nor a function"),
        ({"instructions": "caf\udce9"}, "half a character in its instructions: read it as UTF-8"),
        ({"name": " "}, "an agent has name=' ': write text"),
        ({"name": None}, "an agent has name=None: write text"),
        ({"greeting": 5}, "agent 'agent' has greeting=5: write text, or None"),
        ({"greeting": "caf\udce9"}, "half a character in its greeting"),
        ({"guardrail": "none"}, "guardrail='none': give it a function, or None"),
        ({"tools": add}, r"tools=Tool\(name='add'.*: put it into a list"),
        ({"handoffs": "billing"}, "handoffs='billing': put it into a list"),
        ({"handoffs": Agent(name="billing", instructions="")}, "put it into a list"),
        (
            {"handoffs": [f"agent {number}" for number in range(128)]},
            "agent 'agent' has 129 tools: a session takes 128",
        ),
        ({"extra": {"metadata": object()}}, "agent 'agent' has extra that is not JSON: Object of type object"),
    ],
)
def test_an_agent_that_cannot_be_is_refused_where_it_is_written(options: dict[str, Any], words: str) -> None:
    with pytest.raises(DefinitionError, match=words):
        Agent(**{"instructions": "", "tools": [add], **options})


# --- who answers ---


async def test_an_agent_is_chosen_for_a_call(call: Call) -> None:
    one, other = Agent(instructions="one"), Agent(instructions="other")

    async def later(call: Call) -> Agent:
        return one if call.caller == "+15550100001" else other

    def plain(call: Call) -> Agent:
        assert threading.current_thread() is not threading.main_thread()
        return other

    assert await choose(one, call) is one
    assert await choose(later, call) is one
    assert await choose(plain, call) is other
    with pytest.raises(DefinitionError, match="returned NoneType: return an Agent"):
        await choose(lambda call: None, call)  # type: ignore[arg-type,return-value]


def test_a_response_of_its_own() -> None:
    agent = Agent(instructions="", tools=[add])
    assert agent.response(None, None) == {}
    assert agent.response("Sing.", []) == {"instructions": "Sing.", "tools": []}
    assert agent.response(None, [add]) == {"tools": [add.definition()]}
    with pytest.raises(DefinitionError, match="no tool 'hang_up' to respond with: add it"):
        agent.response(None, [hang_up])


def test_what_a_call_passes_on(call: Call) -> None:
    control = Control()
    call.attach(control)
    call.add("caf\udce9")
    call.add("Hello.", role="user")
    call.respond()
    call.respond("S\udce9", [add])
    call.clear()
    call.commit()
    with pytest.raises(DefinitionError, match="role='assistant'"):
        call.add("x", role="assistant")  # type: ignore[arg-type]
    call.attach(None)
    call.add("after")
    call.respond()
    call.commit()
    call.clear()
    assert control.done == [
        ("add", "caf?", "system"),
        ("add", "Hello.", "user"),
        ("respond", None, None),
        ("respond", "S?", [add]),
        "clear",
        "commit",
    ]
