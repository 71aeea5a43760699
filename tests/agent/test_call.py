"""The handle of a live call: what it passes on to its session, and what it does without one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from phoneagent import Call, Clip, DefinitionError, Tool, ToolError, hang_up, press_keys, tool
from phoneagent.agent.call import sendable
from phoneagent.agent.image import data_url
from tests.agent.test_image import PNG
from tests.protocol.test_wav import riff

pytestmark = pytest.mark.anyio


class Control:
    """Stands for the live call."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.muted = False

    def mute(self, *, muted: bool) -> None:
        self.muted = muted
        self.done.append(("mute", muted))

    def say(self, text: str, *, interruptible: bool) -> None:
        self.done.append(("say", text, interruptible))

    def interrupt(self) -> None:
        self.done.append("interrupt")

    def hang_up(self, *, goodbye: bool) -> None:
        self.done.append(("hang_up", goodbye))

    def add(self, text: str, role: str, image: str | None) -> None:
        self.done.append(("add", text, role) if image is None else ("add", text, role, image))

    def respond(self, instructions: str | None, tools: Sequence[Tool] | None) -> None:
        self.done.append(("respond", instructions, tools))

    def commit(self) -> None:
        self.done.append("commit")

    def clear(self) -> None:
        self.done.append("clear")

    async def gather(self, digits: int, timeout: float, finish_on: str) -> Any: ...

    async def ask(self, instructions: str, input: str | None, timeout: float) -> Any:
        self.done.append(("ask", instructions, input, timeout))
        return SimpleNamespace(answer="Booked.")

    def play(self, clip: Any, *, interruptible: bool) -> None:
        self.done.append(("play", clip, interruptible))

    def send_digits(self, digits: str) -> None:
        self.done.append(("send_digits", digits))

    def record(self, what: str) -> None:
        self.done.append(("record", what))


@pytest.fixture
def call() -> Call:
    return Call(sid="CA1", caller="+15550100001", called=None, direction="inbound", started_at=datetime.now(UTC))


@tool
async def add(a: int, b: int = 1) -> int:
    """Add."""
    return a + b


def test_a_call_reaches_its_session_only_while_it_lives(call: Call) -> None:
    call.say("before")
    control = Control()
    call.attach(control)
    call.say("hello")
    call.say("this call is recorded", interruptible=False)
    call.interrupt()
    call.hang_up(goodbye=False)
    call.attach(None)
    call.say("after")
    call.interrupt()
    call.hang_up()
    said = [("say", "hello", True), ("say", "this call is recorded", False)]
    assert control.done == [*said, "interrupt", ("hang_up", False)]


def test_a_recording_is_started_paused_and_stopped(call: Call) -> None:
    control = Control()
    for attached in (control, None):
        call.attach(attached)
        call.start_recording()
        call.pause_recording()
        call.stop_recording()
    assert control.done == [("record", "start"), ("record", "pause"), ("record", "stop")]


def test_no_phone_number_in_a_repr(call: Call) -> None:
    assert "+1555" not in repr(call)


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


@pytest.mark.parametrize(
    ("direction", "party"),
    [("inbound", "+15550100001"), ("outbound-api", "+15550100002"), ("outbound-dial", "+15550100002")],
)
def test_the_party_is_the_other_side(direction: str, party: str) -> None:
    call = Call(
        sid="CA1", caller="+15550100001", called="+15550100002", direction=direction, started_at=datetime.now(UTC)
    )
    assert call.party == party


def test_the_state_of_a_call_is_its_own(call: Call) -> None:
    other = Call(sid="CA2", caller=None, called=None, direction="inbound", started_at=datetime.now(UTC))
    call.state["name"] = "Anna"
    assert other.state == {}
    assert "Anna" not in repr(call)


def test_two_handles_of_one_call_are_different_calls(call: Call) -> None:
    """Calls are compared by identity, so that they can be keys although their state changes."""
    same = Call(sid=call.sid, caller=call.caller, called=None, direction=call.direction, started_at=call.started_at)
    assert same != call
    assert len({same, call}) == 2


@pytest.mark.parametrize(
    ("text", "sent"), [("plain", "plain"), ("naïve µ 🙂", "naïve µ 🙂"), ("a\udce9b", "a?b"), ("\ud83d", "?"), ("", "")]
)
def test_text_is_made_sendable(text: str, sent: str) -> None:
    assert sendable(text) == sent
    sent.encode("utf-8")


def test_an_image_is_the_users(call: Call) -> None:
    control = Control()
    call.attach(control)
    call.add("What is this?", image=PNG)
    call.add("", "user", image=data_url(PNG))
    with pytest.raises(DefinitionError, match="only a user message can have an image"):
        call.add("Look.", "system", image=PNG)
    with pytest.raises(DefinitionError, match="not a data URL"):
        call.add("Look.", image="https://x.example/a.png")
    assert control.done == [("add", "What is this?", "user", data_url(PNG)), ("add", "", "user", data_url(PNG))]


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_text_says_nothing(call: Call, text: str) -> None:
    control = Control()
    call.attach(control)
    call.say(text)
    assert control.done == []


@pytest.mark.parametrize("text", [None, 7, b"Hello."])
def test_what_is_no_text_cannot_be_said_though_the_call_is_over(call: Call, text: Any) -> None:
    with pytest.raises(DefinitionError, match=r"call\.say has text=.*: write what the agent says"):
        call.say(text)


def test_a_wrong_role_is_refused_though_the_call_is_over(call: Call) -> None:
    with pytest.raises(DefinitionError, match='choose "system" or "user"'):
        call.add("x", role="assistant")  # type: ignore[arg-type]


async def test_hang_up_hangs_up(call: Call) -> None:
    control = Control()
    call.attach(control)
    await hang_up.run(call, "{}")
    assert control.done == [("hang_up", True)]


# --- questions ---


async def test_a_question_reaches_the_session_and_its_answer_the_user(call: Call) -> None:
    with pytest.raises(ToolError, match="the call is over"):
        await call.ask("Summarize.")
    control = Control()
    call.attach(control)
    assert await call.ask("S\udce9.") == "Booked."
    assert await call.ask("Summarize.", "a\udce9", timeout=3) == "Booked."
    assert control.done == [("ask", "S?.", None, 15.0), ("ask", "Summarize.", "a?", 3)]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"instructions": " "}, "no text in its instructions"),
        ({"instructions": None}, "no text in its instructions"),
        ({"instructions": "x", "input": ""}, "no text in its input"),
        ({"instructions": "x", "input": "secret" * 6000}, "36000 characters in its input: keep to 32000"),
        ({"instructions": "x", "timeout": 0}, "timeout=0: it must be more than 0"),
        ({"instructions": "x", "timeout": True}, "timeout=True"),
    ],
)
async def test_what_cannot_be_asked_is_a_mistake(call: Call, given: dict[str, Any], words: str) -> None:
    with pytest.raises(DefinitionError, match=rf"call\.ask has .*{words}|call\.ask has {words}") as error:
        await call.ask(**given)
    assert "secret" not in str(error.value)


# --- keys ---


async def test_digits_are_gathered_only_while_the_call_lives(call: Call) -> None:
    with pytest.raises(ToolError, match="the call is over"):
        await call.gather(digits=4)


@pytest.mark.parametrize(
    "given", [{"digits": 0}, {"digits": 4.0}, {"timeout": -1}, {"timeout": 121}, {"finish_on": "5#"}]
)
async def test_what_cannot_be_gathered_is_a_mistake(call: Call, given: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError, match=rf"call.gather has {next(iter(given))}="):
        await call.gather(**given)


def test_keys_and_clips_reach_the_session(call: Call) -> None:
    clip = Clip(riff(7, 1, 8000, 8, b"\x55" * 160))
    call.play(clip)
    call.send_digits("1")
    control = Control()
    call.attach(control)
    call.play(clip, interruptible=False)
    call.send_digits("1ww23#")
    assert control.done == [("play", clip, False), ("send_digits", "1ww23#")]


@pytest.mark.parametrize("digits", ["", "1 2", "E", "1" * 101, 5])
def test_what_cannot_be_pressed_is_a_mistake_that_repeats_nothing(call: Call, digits: Any) -> None:
    with pytest.raises(DefinitionError, match=r"call\.send_digits takes 1 to 100 keys") as error:
        call.send_digits(digits)
    assert "1 2" not in str(error.value)


def test_a_file_is_no_clip(call: Call) -> None:
    with pytest.raises(DefinitionError, match="make a Clip"):
        call.play("hold.wav")  # type: ignore[arg-type]


async def test_the_tool_for_menus_presses_once(call: Call) -> None:
    control = Control()
    call.attach(control)
    assert "Wait" in await press_keys.run(call, '{"keys": "2w5"}')
    assert control.done == [("send_digits", "2w5")]
    assert "bad arguments" in await press_keys.run(call, '{"keys": "two"}')
    assert "press once" in press_keys.description


def test_a_call_is_muted_by_its_line_and_before_there_is_one(call: Call) -> None:
    assert not call.muted
    call.mute()
    assert call.muted
    control = Control()
    call.attach(control)
    call.mute()
    assert (call.muted, control.done) == (True, [("mute", True)])
    call.mute(False)
    assert (call.muted, control.done[1:]) == (False, [("mute", False)])
