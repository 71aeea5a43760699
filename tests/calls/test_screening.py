"""The first minute of a call that was made: what the model hears, and what the call is told to do."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from phoneagent import Call, CallerSpoke, Turn, TurnEnded
from phoneagent.bridge.history import Past
from phoneagent.calls import screening as module
from phoneagent.calls.screening import HELLO_SECONDS, SCREENED_SECONDS, Screening
from phoneagent.errors import StoreError
from phoneagent.protocol import carrier
from phoneagent.protocol.audio import silence
from phoneagent.sim.speech import Murmur
from phoneagent.sim.twilio.callee import sound
from phoneagent.store.records import OutboundCall
from tests.patience import HANG_SECONDS

pytestmark = pytest.mark.anyio

HUM = Murmur().render("You have reached Anna.")
WORDS = "Please leave a message after the tone."
SAID = Turn(role="caller", item_id="i", text="", heard_text="", start_ms=0, end_ms=900, said_ms=900, heard_ms=900)


class Control:
    """Notes what a call is told to do."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def interrupt(self) -> None:
        self.told.append("interrupt")

    def say(self, text: str, *, interruptible: bool) -> None:
        self.told.append(f"say {text} {interruptible}")

    def hang_up(self, *, goodbye: bool) -> None:
        self.told.append(f"hang up {goodbye}")

    def add(self, text: str, role: str, image: str | None = None) -> None:
        self.added = text

    def respond(self, instructions: Any, tools: Any) -> None:
        self.told.append("respond")


class Rig:
    def __init__(
        self,
        greeting: str | None = None,
        polled: Any = None,
        known: str | None = None,
        past: Past | None = None,
        left: bool | None = None,
        **plan: Any,
    ) -> None:
        self.call = Call(
            sid="CA1",
            caller="+15550100002",
            called="+15550100009",
            direction="outbound-api",
            started_at=datetime.now(UTC),
        )
        self.control = Control()
        self.call.attach(self.control)  # type: ignore[arg-type]
        self.decided: list[str] = []
        self.left: list[bool | None] = []
        self.recorded = asyncio.Event()
        """Whether the store has recorded the decisions."""
        self.recorded.set()
        row = OutboundCall(
            id="1",
            idempotency_key=None,
            to="+15550100009",
            plan=plan,
            status="in-progress",
            call_sid="CA1",
            answered_by=None,
            decided=known,
            message_left=left,
            error=None,
            attempts=1,
            created_at=datetime.now(UTC),
            asked_at=None,
            ended_at=None,
        )
        answers = iter(polled or [])

        async def poll() -> OutboundCall:
            found = next(answers, None)
            if isinstance(found, Exception):
                raise found
            return replace(row, answered_by=found)

        def decided(verdict: str, message_left: bool | None) -> asyncio.Task[Any]:
            self.decided.append(verdict)
            self.left.append(message_left)
            return asyncio.create_task(self.recorded.wait())

        self.screening = Screening(self.call, row, greeting=greeting, poll=poll, decided=decided, past=past)

    def hear(self, audio: bytes) -> bytes:
        """Give the screening audio; return what the model would hear."""
        heard = b""
        for at in range(0, len(audio), 160):
            frame = carrier.AudioIn(base64.b64encode(audio[at : at + 160]).decode(), 0)
            self.screening.hear(frame)
            heard += base64.b64decode(frame.payload)
        return heard

    async def turn(self, role: str, text: str, **changes: Any) -> None:
        given = replace(SAID, role=role, text=text, **changes)  # type: ignore[arg-type]
        self.screening.tell(TurnEnded(call_sid="CA1", turn=given))
        for _ in range(5):
            await asyncio.sleep(0)

    @property
    def told(self) -> list[str]:
        return self.control.told


async def test_a_message_is_left_after_the_beep_and_meanwhile_the_model_hears_silence() -> None:
    rig = Rig(on_machine="leave_message", message="Call us.")
    assert rig.hear(HUM) == HUM
    await rig.turn("caller", WORDS)
    assert (rig.told, rig.decided, rig.screening.deaf) == (["interrupt"], ["machine"], True)
    assert rig.hear(HUM) == silence(len(HUM) // 8)
    rig.hear(sound(1000, 0.4) + silence(100))
    assert rig.told == ["interrupt", "interrupt", "say Call us. False"]
    await rig.turn("agent", "An earlier answer", start_ms=0)
    assert rig.told[-1].startswith("say"), "that was no part of the message"
    await rig.turn("agent", "Call us.", start_ms=60_000)
    assert rig.told[-1] == "hang up False"
    await rig.turn("agent", "Call us.", start_ms=61_000)
    assert len(rig.told) == 4
    assert (rig.decided, rig.left) == (["machine", "machine"], [False, True])


async def test_the_call_ends_once_it_is_recorded_that_the_message_was_left() -> None:
    rig = Rig(on_machine="leave_message", message="Call us.")
    await leave(rig)
    rig.recorded.clear()
    await rig.turn("agent", "Call us.", start_ms=60_000)
    assert (rig.left, "hang up False" in rig.told) == ([False, True], False)
    rig.recorded.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert rig.told[-1] == "hang up False"


async def test_a_message_that_was_cut_off_was_not_left() -> None:
    rig = Rig(on_machine="leave_message", message="Call us.")
    await leave(rig)
    await rig.turn("agent", "Call us.", start_ms=60_000, interrupted=True)
    assert (rig.left, rig.told[-1]) == ([False], "hang up False")


async def test_a_message_that_was_left_is_not_said_again_in_the_next_stream() -> None:
    rig = Rig(known="machine", left=True, past=said(), on_machine="leave_message", message="x")
    rig.hear(silence(200))
    assert (rig.told, rig.left) == (["interrupt", "hang up False"], [True])


async def leave(rig: Rig) -> None:
    """Have the message begin."""
    await rig.turn("caller", WORDS)
    rig.hear(sound(1000, 0.4) + silence(100))
    assert rig.told[-1] == "say Call us. False"


async def test_a_machine_that_was_known_in_an_earlier_media_stream_gets_the_message_once_it_is_silent() -> None:
    rig = Rig(known="machine", on_machine="leave_message", message="Call us.")
    rig.hear(silence(20))
    assert (rig.told, rig.screening.deaf) == (["interrupt"], True)
    rig.hear(silence(5000))
    assert rig.told[-1] == "say Call us. False"
    rig = Rig(known="person", on_machine="leave_message", message="Call us.")
    rig.hear(silence(20))
    assert rig.told == []


def said(*turns: tuple[str, str], age_ms: int = 20_000) -> Past:
    return Past(turns=tuple(replace(SAID, role=role, text=text) for role, text in turns), age_ms=age_ms)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("known", "past"),
    [
        ("person", said()),
        ("menu", said()),
        (None, said(("agent", "This is the dentist."), ("caller", "Who is this?"))),
        (None, said(("agent", "This is the bank."), ("caller", "For cards, press one."))),
    ],
)
async def test_a_hand_over_does_not_make_a_machine_of_a_person_or_a_menu(known: str | None, past: Past) -> None:
    rig = Rig(known=known, past=past, on_machine="hang_up", amd=True)
    rig.screening.amd("machine_end_other")
    rig.hear(silence(1000))
    assert (rig.told, "machine" in rig.decided) == ([], False)
    rig.screening.close()


async def test_a_hand_over_does_not_open_the_first_minute_again() -> None:
    late = said(age_ms=int(SCREENED_SECONDS * 1000) - 1000)
    for known, told in ((None, []), ("person", []), ("machine", ["interrupt", "hang up False"])):
        rig = Rig(known=known, past=late, on_machine="hang_up")
        rig.hear(silence(1000))
        await rig.turn("caller", WORDS)
        assert rig.told == told


async def test_an_agent_does_not_wait_for_hello_again() -> None:
    rig = Rig("Good morning!", past=said(), first="callee")
    rig.hear(silence(10_000))
    assert rig.told == []


async def test_the_call_ends_at_once_where_a_machine_or_a_fax_gets_nothing() -> None:
    for rig, audio in (
        (Rig(on_machine="hang_up"), sound(1000, 0.5) + silence(100)),
        (Rig(on_machine="talk"), sound(2100, 1.2)),
    ):
        rig.hear(audio)
        assert rig.told == ["interrupt", "hang up False"]
        assert not rig.screening.open


async def test_an_agent_may_talk_to_a_machine() -> None:
    rig = Rig(on_machine="talk")
    rig.hear(sound(1000, 0.5) + silence(100))
    await rig.turn("caller", WORDS)
    assert (rig.told, rig.decided, rig.screening.deaf) == ([], ["machine"], False)


async def test_amd_comes_from_the_store_too_and_an_outage_of_it_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.001)
    rig = Rig(on_machine="hang_up", amd=True, polled=[None, StoreError("gone"), "machine_end_beep"])
    async with asyncio.timeout(HANG_SECONDS):
        while not rig.told:
            await asyncio.sleep(0.001)
    assert rig.told == ["interrupt", "hang up False"]
    rig.screening.close()


async def test_a_verdict_that_changes_is_told_again() -> None:
    rig = Rig(on_machine="leave_message", message="Call us.", amd=True)
    rig.screening.amd("human")
    rig.hear(silence(200) + sound(1000, 0.4) + silence(100))
    assert rig.decided == ["person", "machine"]
    rig.screening.close()


@pytest.mark.parametrize(
    ("greeting", "told"), [(None, ["respond"]), ("", ["respond"]), ("Good morning!", ["say Good morning! True"])]
)
async def test_an_agent_waits_for_hello_but_not_forever(greeting: str | None, told: list[str]) -> None:
    rig = Rig(greeting, first="callee")
    rig.hear(silence(int(HELLO_SECONDS * 1000) - 20))
    assert rig.told == []
    rig.hear(silence(40))
    assert rig.told == told
    rig.hear(silence(10_000))
    assert rig.told == told
    assert (greeting or "") in getattr(rig.control, "added", "")
    spoken = Rig(greeting, first="callee")
    spoken.hear(HUM + silence(10_000))
    assert spoken.told == []
    agent = Rig(greeting, first="agent")
    agent.hear(silence(10_000))
    assert agent.told == []


@pytest.mark.parametrize("clicks", [1, 9])
async def test_a_click_at_pick_up_is_no_hello(clicks: int) -> None:
    rig = Rig("Good morning!", first="callee")
    for _ in range(clicks):
        rig.hear(sound(400, 0.04) + silence(360))
    rig.hear(silence(int(HELLO_SECONDS * 1000)))
    assert rig.told == ["say Good morning! True"]


async def test_a_short_hello_is_one_once_the_model_or_its_length_says_so() -> None:
    short = Rig("Good morning!", first="callee")
    short.hear(sound(400, 0.1))
    short.screening.tell(CallerSpoke(call_sid="CA1", at_ms=0))
    long = Rig("Good morning!", first="callee")
    long.hear(sound(400, 0.12) + silence(100) + sound(400, 0.12))
    for rig in (short, long):
        rig.hear(silence(10_000))
        assert rig.told == []


async def test_after_a_while_nothing_is_listened_to() -> None:
    rig = Rig(on_machine="hang_up")
    rig.hear(silence(int(SCREENED_SECONDS * 1000)))
    rig.hear(sound(1000, 0.4) + silence(100))
    await rig.turn("caller", WORDS)
    assert rig.told == rig.decided == []


async def test_audio_that_is_none_is_left_to_the_bridge() -> None:
    rig = Rig(on_machine="hang_up")
    rig.screening.hear(carrier.AudioIn("!", 0))
    assert rig.told == []
