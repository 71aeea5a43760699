"""Agents: what they refuse where they are written, the session they configure, and the choice of the agent."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from phoneagent import Agent, Call, DefinitionError, Hearing, Limits, Tool, Turns, Voice, hang_up, tool
from phoneagent.agent.agent import MAX_TOKENS, choose
from phoneagent.bridge.scripts import tokens_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def call() -> Call:
    return Call(sid="CA1", caller="+15550100001", called=None, direction="inbound", started_at=datetime.now(UTC))


@tool
async def add(a: int, b: int = 1) -> int:
    """Add."""
    return a + b


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
    with pytest.raises(DefinitionError, match="returned NoneType: return text"):
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


def test_keys_are_told_or_ignored() -> None:
    assert Agent(instructions="").keys == "tell"
    assert Agent(instructions="", keys="ignore").keys == "ignore"
    with pytest.raises(DefinitionError, match="keys='hide': choose 'tell' or 'ignore'"):
        Agent(instructions="", keys="hide")  # type: ignore[arg-type]


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


def test_unset_options_are_left_to_the_server() -> None:
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


async def in_pieces(call: Call) -> AsyncIterator[str]:
    yield "x"


LARGE = [
    Tool(name=f"tool_{number}", description="word " * 200, parameters={}, handler=lambda arguments: None)
    for number in range(120)
]


async def test_instructions_of_a_function_that_are_too_long_are_cut_and_told(
    call: Call, caplog: pytest.LogCaptureFixture
) -> None:
    agent = Agent(instructions=lambda call: "word " * 20_000, tools=LARGE[:40])
    text = await agent.instructions_for(call)
    tools = sum(each.tokens for each in agent.all_tools)
    assert MAX_TOKENS - 5 < tokens_of(text) + tools <= MAX_TOKENS
    assert "returned about 20000 tokens: the model gets the first" in caplog.text
    assert text.startswith("word word")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tool_choice": "divide"}, "tool_choice='divide': choose one of 'auto', 'none', 'required', 'add'"),
        ({"tool_choice": "required", "tools": []}, "has tool_choice='required' and no tools: write 'auto'"),
        ({"turns": "server_vad"}, "turns='server_vad': make it a Turns"),
        ({"hearing": "fr"}, "hearing='fr': make it a Hearing"),
        ({"limits": 500}, "limits=500: make it a Limits"),
        ({"extra": []}, r"extra=\[\]: make it a Mapping"),
        ({"voice": ""}, "Voice.name is '': write text"),
        ({"instructions": None}, "instructions=None: write text, or a function that returns it"),
        ({"instructions": "caf\udce9"}, "a lone surrogate in its instructions: decode it as UTF-8"),
        ({"name": " "}, "an agent has name=' ': write text"),
        ({"name": None}, "an agent has name=None: write text"),
        ({"greeting": 5}, "agent 'agent' has greeting=5: write text, or None"),
        ({"greeting": "caf\udce9"}, "a lone surrogate in its greeting"),
        ({"guardrail": "none"}, "guardrail='none': pass a function, or None"),
        ({"tools": add}, r"tools must be a list: write tools=\[add\]$"),
        ({"handoffs": "billing"}, r"handoffs must be a list: write handoffs=\[\.\.\.\]$"),
        ({"handoffs": Agent(name="billing", instructions="")}, r"write handoffs=\[billing\]$"),
        (
            {"handoffs": [f"agent {number}" for number in range(128)]},
            "agent 'agent' has 129 tools: keep at most 128",
        ),
        ({"instructions": lambda: "x"}, r"an instructions function that cannot be called .*: let it take \(call\)"),
        ({"instructions": in_pieces}, "an instructions function that is a generator: return the value"),
        ({"guardrail": lambda call: None}, r"a guardrail that cannot be called .*: let it take \(call, text\)"),
        ({"greeting": " \n"}, "agent 'agent' has greeting=' .n': write text, or None"),
        ({"name": "x" * 201}, "an agent has a name of 201 characters: keep to 200"),
        ({"name": "add"} | {"handoffs": ["add"]}, "agent 'add' hands off to itself: name another agent"),
        ({"handoffs": [""]}, "agent 'agent' hands off to '': name another agent"),
        ({"handoffs": ["caf\udce9"]}, "hands off to 'caf.udce9': name another agent"),
        ({"handoffs": ["x" * 201]}, "name another agent"),
        ({"voice": "marin "}, "Voice.name is 'marin ': remove the spaces around it"),
        ({"voice": "caf\udce9"}, "Voice.name is 'caf.udce9': write text"),
        ({"extra": {"audio": None}}, "an `extra` that makes audio None: leave that out"),
        ({"extra": {"audio": {"input": "pcm"}}}, "an `extra` that makes audio.input 'pcm': leave that out"),
        ({"extra": {"audio": {"input": {"turn_detection": "server_vad"}}}}, "makes audio.input.turn_detection"),
        ({"extra": {"tools": {}}}, "an `extra` that makes tools {}"),
        ({"extra": {"temperature": float("nan")}}, "an `extra` that is not JSON: "),
        ({"instructions": "word " * 17_000}, "instructions and tools of about 170[0-9]{2} tokens, and .* takes 16384"),
        ({"instructions": "予約" * 12_000}, "instructions and tools of about 18[0-9]{3} tokens"),
        ({"tools": LARGE}, "instructions and tools of about 2[0-9]{4} tokens"),
        ({"extra": {"metadata": object()}}, "agent 'agent' has an `extra` that is not JSON: Object of type object"),
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
