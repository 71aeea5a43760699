"""A call between two people is transcribed: both tracks of a stream, each in a session of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from phoneagent import (
    Agent,
    Call,
    CallEnded,
    CallStarted,
    Hearing,
    Transcriber,
    Trouble,
    TurnEnded,
    Turns,
    UsageReported,
)
from phoneagent.events import Turn
from phoneagent.protocol.audio import rms, tone
from phoneagent.sim import CallFailed, Faults, Model
from phoneagent.sim.model.vad import EnergyGate
from phoneagent.store import Store
from tests.end_to_end.conftest import World, Worlds

pytestmark = pytest.mark.anyio

OTHER = "+15550100009"
QUESTION, ANSWER, THANKS = tone(300, 400), tone(300, 700), tone(300, 1000)
WORDS = {400: "Is it ready?", 700: "Tomorrow at noon.", 1000: "Thanks a lot."}


class ByLength:
    """An ear that knows each line by how long it sounds."""

    async def hear(self, ulaw: bytes) -> str:
        frames = [ulaw[at : at + 160] for at in range(0, len(ulaw), 160)]
        loud_ms = 20 * sum(rms(frame) > 1000 for frame in frames)
        return WORDS[min(WORDS, key=lambda ms: abs(ms - loud_ms))]


def listener(faults: Faults | None = None, session_seconds: float = 3600) -> Model:
    return Model(ear=ByLength(), vad=EnergyGate, faults=faults or Faults(), session_seconds=session_seconds)


def turns_of(world: World) -> list[Turn]:
    return [event.turn for event in world.of(TurnEnded)]


async def heard(world: World, number: int) -> list[Turn]:
    await world.until(lambda: len(turns_of(world)) >= number)
    return turns_of(world)


async def test_both_people_are_transcribed_and_recorded(world: Worlds, tmp_path: Path) -> None:
    store = Store.from_url(f"sqlite:///{tmp_path}/calls.db")
    transcriber = Transcriber(dial=OTHER, hearing=Hearing(language="en"))
    async with world(transcriber, model=listener(), store=store) as w:
        async with w.phone().dial() as line:
            await line.say(QUESTION)
            await heard(w, 1)
            await line.callee_says(ANSWER)
            await heard(w, 2)
            await line.say(THANKS)
            line.callee_hangs_up()  # the last words are still on their way
            await line.wait_ended()
        (ended,) = await w.until(lambda: w.of(CallEnded))
        said = [(turn.role, turn.text) for turn in ended.transcript]
        assert said == [("caller", "Is it ready?"), ("callee", "Tomorrow at noon."), ("caller", "Thanks a lot.")]
        assert turns_of(w) == list(ended.transcript)
        for turn, spoken in zip(ended.transcript, [line.speech[0], line.callee.speech[0], line.speech[1]], strict=True):
            assert abs(turn.start_ms - spoken.start_ms) < 250  # a stream's own clock begins a little above zero
            assert abs(turn.end_ms - spoken.end_ms) < 350
        assert len(w.of(CallStarted)) == 1
        assert (ended.ended_by, ended.cost.at_least) == ("caller", False)
        assert len(w.of(UsageReported)) == 3
        assert w.of(UsageReported)[-1].total == ended.cost
        assert line.violations == []
        assert line.verbs == ["Start", f"Dial {OTHER}"]
        assert not line.received
        assert w.model.violations == []
        sessions = w.model.sessions
        assert [session.session["type"] for session in sessions] == ["transcription"] * 2
        assert {dict(session.query)["intent"] for session in sessions} == {"transcription"}
        assert [session.session["audio"]["input"]["transcription"]["language"] for session in sessions] == ["en"] * 2
        await store.flush()
        record = await store.call(line.call_sid)
        assert record is not None
        assert [(turn.role, turn.text) for turn in record.turns] == said
        assert record.ended_by == "caller"
        assert OTHER not in w.log.text


async def test_a_function_chooses_between_an_agent_and_a_transcriber(world: Worlds) -> None:
    async def answer(call: Call) -> Agent | Transcriber:
        return Transcriber(dial=OTHER) if call.called == "+15550100003" else Agent(instructions="x", greeting="Hello!")

    async with world(answer, model=listener()) as w:
        async with w.phone(called="+15550100003").dial() as line:
            await line.callee_says(ANSWER)
            assert [turn.role for turn in await heard(w, 1)] == ["callee"]
        async with w.phone().dial() as line:
            await line.wait_for_agent(ms=100)
        assert w.model.violations == []


async def test_a_lost_session_loses_no_words(world: Worlds) -> None:
    async with world(Transcriber(dial=OTHER), model=listener()) as w:
        async with w.phone().dial() as line:
            await w.until(lambda: len(w.model.sessions) == 2)
            speaking = asyncio.create_task(line.say(THANKS))
            await w.until(lambda: line.speech and line.duration_ms > line.speech[0].start_ms + 400)  # amid the words
            for session in list(w.model.sessions):
                session.kill()
            await speaking
            (turn,) = await heard(w, 1)
            assert (turn.role, turn.text) == ("caller", "Thanks a lot.")
            assert abs(turn.start_ms - line.speech[0].start_ms) < 250
        assert len(w.model.sessions) == 4
        assert any("is lost" in event.what for event in w.of(Trouble))
        assert len(turns_of(w)) == 1


async def test_a_refused_recognizer_ends_the_transcript_and_not_the_call(world: Worlds) -> None:
    refused = Faults(refuse_models={"gpt-transcribe"})
    async with world(Transcriber(dial=OTHER), model=listener(refused)) as w, w.phone().dial() as line:
        (ended,) = await w.until(lambda: w.of(CallEnded))
        assert ended.ended_by == "error"
        assert "no recognizer is left" in ended.reason
        assert line.ended_by is None  # the two talk on
        assert line.violations == []


async def test_the_announcement_comes_first_and_the_number_is_never_ours_to_show(world: Worlds) -> None:
    transcriber = Transcriber(
        dial=OTHER, announcement="This call is transcribed.", turns=Turns(eagerness="high", detection="semantic_vad")
    )
    async with world(transcriber, model=listener()) as w:
        async with w.phone(caller=None).dial() as line:
            await line.say(QUESTION)
            line.callee_hangs_up()
            await line.wait_ended()
            await heard(w, 1)
        assert line.verbs == ["Say This call is transcribed.", "Start", f"Dial {OTHER}"]
        assert OTHER not in repr(transcriber)


async def test_a_call_that_is_too_expensive_goes_on_without_its_transcript(world: Worlds) -> None:
    limited = world(Transcriber(dial=OTHER), model=listener(), max_call_cost="0.00001")
    async with limited as w, w.phone().dial() as line:
        await line.say(QUESTION)
        (ended,) = await w.until(lambda: w.of(CallEnded))
        assert "cost limit" in ended.reason
        assert line.ended_by is None


async def test_the_phone_that_comes_again_takes_the_place_of_the_older_stream(world: Worlds, tmp_path: Path) -> None:
    """Other TwiML had the call for a while."""
    async with world(Transcriber(dial=OTHER), model=listener()) as w:
        call_sid = "CA" + "a" * 32
        async with w.phone().dial(call_sid=call_sid) as first:
            async with w.phone().dial(call_sid=call_sid) as second:
                await w.until(lambda: len(w.of(CallEnded)) == 1)
                await second.callee_says(ANSWER)
                assert (await heard(w, 1))[0].role == "callee"
            assert first.violations == []


async def test_a_stream_that_does_not_open_fails_the_simulated_call(world: Worlds) -> None:
    """The two would talk without it, and a test would wait for them."""
    async with world(Transcriber(dial=OTHER), model=listener(), insecure=True, public_url="https://localhost") as w:
        with pytest.raises(CallFailed, match="31902") as failed:
            async with w.phone(auth_token=None, public_url=None).dial():
                raise AssertionError("it has no stream")
        assert failed.value.verbs == ("Start", f"Dial {OTHER}")
