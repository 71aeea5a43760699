"""Trial settings: what they change of an agent, what is refused, and the Python that says the same."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from phoneagent import Agent, Call, Endpoint, Transcriber, Turns, Voice, tool
from phoneagent.agent.agent import choose, choose_answer
from phoneagent.console.trial import Trial, Trials, TurnDetection, apply, as_python, check, model_of, with_model
from phoneagent.errors import DefinitionError

pytestmark = pytest.mark.anyio

OPENAI = Endpoint("wss://api.openai.com/v1/realtime?model=gpt-realtime", {"Authorization": "Bearer x"})
OTHER = Endpoint("ws://127.0.0.1:8000/v1/realtime")


@tool
async def weather(city: str) -> str:
    """Tell the weather."""
    return "sunny"


@tool
async def remember(fact: str) -> str:
    """Remember a fact."""
    return "ok"


AGENT = Agent(name="host", instructions="You answer.", voice=Voice("cedar", speed=0.9), tools=[weather, remember])


def call(sid: str = "CA1") -> Call:
    return Call(sid=sid, caller="+15550100001", called=None, direction="inbound", started_at=datetime.now(UTC))


# --- what it changes ---


def test_an_empty_trial_changes_nothing() -> None:
    assert apply(AGENT, Trial()) == AGENT


def test_a_trial_changes_what_it_names_and_nothing_else() -> None:
    trial = Trial(
        voice="marin",
        instructions="Be brief.",
        tools_off=("weather",),
        turn_detection=TurnDetection("semantic_vad", eagerness="low"),
    )
    changed = apply(AGENT, trial)
    assert changed.voice == Voice("marin", speed=0.9)
    assert changed.instructions == "Be brief."
    assert changed.tools == [remember]
    assert changed.turns == Turns(detection="semantic_vad", eagerness="low")
    assert (changed.name, changed.greeting) == (AGENT.name, AGENT.greeting)
    assert AGENT.tools == [weather, remember]


def test_a_speed_keeps_the_voice() -> None:
    assert apply(AGENT, Trial(speed=1.2)).voice == Voice("cedar", speed=1.2)
    assert apply(Agent(instructions="x", voice="ash"), Trial(speed=1.2)).voice == Voice("ash", speed=1.2)


@pytest.mark.parametrize("choice", ["weather", "required"])
def test_a_tool_that_had_to_be_called_need_not_be_once_it_is_off(choice: str) -> None:
    agent = Agent(instructions="x", tools=[weather], tool_choice=choice)
    assert apply(agent, Trial(tools_off=("weather",))).tool_choice == "auto"


def test_manual_turns() -> None:
    assert apply(AGENT, Trial(turn_detection=TurnDetection("manual"))).turn_detection is None


def test_another_model_keeps_the_rest_of_the_address() -> None:
    endpoint = Endpoint("wss://api.openai.com/v1/realtime?model=gpt-realtime&x=1", {"Authorization": "Bearer x"})
    changed = with_model(endpoint, "gpt-realtime-mini")
    assert changed.url == "wss://api.openai.com/v1/realtime?model=gpt-realtime-mini&x=1"
    assert changed.headers == endpoint.headers
    assert (model_of(changed), model_of(OTHER)) == ("gpt-realtime-mini", None)
    assert with_model(OTHER, "gpt-realtime-mini") is OTHER


# --- what is refused ---


@pytest.mark.parametrize(
    ("trial", "words"),
    [
        (Trial(voice="bob"), "no voice 'bob': choose one of alloy"),
        (Trial(speed=3.0), "Voice.speed is 3.0: it must be a number from 0.25 to 1.5"),
        (Trial(tools_off=("book",)), r"no tool 'book' to switch off: .*\(weather, remember\)"),
        (Trial(instructions="  "), "instructions are empty"),
        (Trial(instructions="漢" * 30_000), "about .* tokens"),
        (Trial(turn_detection=TurnDetection("semantic_vad", threshold=0.5)), "Turns.threshold"),
        (Trial(turn_detection=TurnDetection("server_vad", idle_timeout_ms=1)), "Turns.idle_timeout_ms"),
    ],
)
def test_what_the_model_would_refuse_is_refused_with_the_remedy(trial: Trial, words: str) -> None:
    with pytest.raises(DefinitionError, match=words):
        check(AGENT, OPENAI, trial)


def test_other_servers_have_voices_of_their_own_and_perhaps_no_model_in_the_address() -> None:
    check(AGENT, OTHER, Trial(voice="bob"))
    check(AGENT, OPENAI, Trial(voice="voice_123", model="gpt-realtime-mini"))
    with pytest.raises(DefinitionError, match="names no model"):
        check(AGENT, OTHER, Trial(model="gpt-realtime-mini"))


def test_an_agent_that_each_call_chooses_is_checked_as_far_as_it_can_be() -> None:
    check(None, OPENAI, Trial(tools_off=("book",)))
    with pytest.raises(DefinitionError, match=r"Voice\.speed"):
        check(None, OPENAI, Trial(speed=9.0))


@pytest.mark.parametrize(
    "given",
    [
        {"voices": "marin"},
        {"model": "gpt realtime"},
        {"model": "x&model=y"},
        {"tools_off": ["x"] * 129},
        {"tools_off": "weather"},
        {"turn_detection": {"type": "push"}},
        {"turn_detection": None, "speed": "fast"},
        {"instructions": "x" * 64_001},
        [],
    ],
)
def test_what_is_no_trial_is_not_read(given: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(given), type=Trial)


# --- as Python ---


def test_the_python_makes_the_same_agent() -> None:
    trial = Trial(
        voice="marin",
        speed=1.1,
        instructions='Say "hello"\nand no more.',
        model="gpt-realtime-mini",
        tools_off=("weather",),
        turn_detection=TurnDetection("server_vad", silence_duration_ms=300),
    )
    text = as_python(AGENT, trial)
    made: dict[str, Any] = {}

    def agent_with(**options: Any) -> Agent:
        return Agent(**{"name": "host", "instructions": "You answer.", **options})

    names = {"Agent": agent_with, "Voice": Voice, "Turns": Turns, "remember": remember}
    exec(compile(text, "trial", "exec"), names, made)
    assert made["agent"] == apply(AGENT, trial)
    assert "# .env: OPENAI_MODEL=gpt-realtime-mini" in text


def test_the_python_of_an_agent_that_each_call_chooses_names_what_is_off() -> None:
    assert as_python(None, Trial(tools_off=("weather",))) == "agent = Agent(\n    # tools=[…] without weather\n)\n"


# --- which calls get it ---


async def test_a_transcriber_gets_none() -> None:
    trials = Trials(lambda call: call.sid == "browser")
    answer = trials.answerer(transcriber := Transcriber(dial="+15550100009"))
    trials.current = Trial(voice="ash")
    assert await choose_answer(answer, call("phone")) is transcriber


async def test_only_calls_from_the_browser_get_it() -> None:
    trials = Trials(lambda call: call.sid == "browser")
    answer = trials.answerer(AGENT)
    assert await choose(answer, call("browser")) is AGENT
    trials.current = Trial(voice="ash", model="gpt-realtime-mini")
    assert (await choose(answer, call("browser"))).voice == Voice("ash", speed=0.9)
    assert await choose(answer, call("phone")) is AGENT
    assert model_of(trials.endpoint(call("browser"), OPENAI)) == "gpt-realtime-mini"
    assert trials.endpoint(call("phone"), OPENAI) is OPENAI
    trials.current = Trial(voice="ash")
    assert trials.endpoint(call("browser"), OPENAI) is OPENAI
