"""What a caller notices: the greeting, interruptions, answers, real speech."""

from __future__ import annotations

from pathlib import Path

import pytest

from phoneagent import Agent, BargeIn, CallEnded, CallStarted, KeyPressed, Trouble, TurnEnded
from phoneagent.sim import Faults, Model, Script
from phoneagent.sim.model.service import ANY_BETA
from phoneagent.sim.speech import Murmur
from tests.end_to_end.conftest import Worlds
from tests.recordings import read_wav

pytestmark = pytest.mark.anyio
VOICE = Murmur()
DATA = Path(__file__).parent.parent / "data"
GREETING = "Good evening, and welcome to the restaurant by the sea."
SHORT = 'default = "What a good question."'
HELLO = """
[[turn]]
caller = "Hello?"
say = "What a good question."
"""
SCRIPT = 'default = "What a good question that was, let me think about it for quite a while before I answer it."'


async def test_the_greeting_is_protected_and_what_was_said_over_it_is_answered(world: Worlds) -> None:
    async with world(Agent(instructions="x", greeting=GREETING), HELLO) as w, w.phone().dial() as line:
        await line.wait_for_agent(ms=300)
        await line.say(VOICE.render("Hello?"))
        await w.until(lambda: len(w.model.sessions[0].audio_items) == 2)
        await line.wait_for_silence(ms=300)
        assert line.clears == []
        items = w.model.sessions[0].audio_items
        assert [items[0].text, items[1].text] == [GREETING, "What a good question."]
        assert bytes(line.received) == b"".join(bytes(item.audio) for item in items)


async def test_a_sound_without_words_over_the_greeting_is_not_answered(world: Worlds) -> None:
    async with world(Agent(instructions="x", greeting=GREETING), SHORT) as w, w.phone().dial() as line:
        await line.wait_for_agent(ms=300)
        await line.say(VOICE.render("Hm"))
        await line.wait_for_silence(ms=1500)
        assert [item.text for item in w.model.sessions[0].audio_items] == [GREETING]
        assert line.clears == []


async def test_the_greeting_may_be_open_to_interruption(world: Worlds) -> None:
    agent = Agent(instructions="x", greeting=GREETING, greeting_interruptible=True)
    async with world(agent, SCRIPT) as w, w.phone().dial() as line:
        await line.wait_for_agent(ms=300)
        await line.say(VOICE.render("Hello, can you hear me?"))
        await line.wait_for_clear()
        await w.until(lambda: w.of(BargeIn))
        assert w.of(BargeIn)[0].item_id == w.model.sessions[0].audio_items[0].item_id


async def test_an_agent_that_cannot_be_interrupted_answers_afterwards(world: Worlds) -> None:
    async with world(Agent(instructions="x", barge_in=False), SHORT) as w, w.phone().dial() as line:
        await line.say(VOICE.render("First?"))
        await line.wait_for_agent(ms=300)
        await line.say(VOICE.render("Second?"))
        await line.wait_for_silence(ms=500)
        assert line.clears == []
        assert [response.by for response in w.model.sessions[0].responses] == ["client", "client"]
        assert w.model.violations == []


async def test_code_may_speak_and_interrupt(world: Worlds) -> None:
    async with world(Agent(instructions="x"), SCRIPT) as w, w.phone().dial() as line:
        call = w.app.calls[line.call_sid] if w.app.calls else await w.until(lambda: w.app.calls.get(line.call_sid))
        call.say('Your taxi, "the blue one", is here, and it will wait for you as long as you need.')
        await line.wait_for_agent(ms=400)
        call.interrupt()
        await line.wait_for_silence(ms=100)
        assert len(line.clears) == 1
        assert w.model.sessions[0].audio_items[0].text.startswith("Your taxi, 'the blue one', is here")


@pytest.mark.parametrize("file", ["librivox-0880.ulaw.wav", "librivox-0920.ulaw.wav"])
async def test_recorded_speech_is_a_turn_and_is_answered(world: Worlds, file: str) -> None:
    async with world(Agent(instructions="x"), 'default = "I see."') as w, w.phone().dial() as line:
        speech = read_wav((DATA / file).read_bytes())
        await line.say(speech)
        await line.wait_for_agent(ms=200, timeout=5)
        turns = w.model.sessions[0].caller_turns
        assert sum(turn.speech_end_ms - turn.speech_start_ms for turn in turns) > 0.6 * len(speech) / 8


async def test_a_human_barge_in(world: Worlds) -> None:
    async with world(Agent(instructions="x"), SCRIPT) as w, w.phone().dial() as line:
        await line.say(VOICE.render("Hello?"))
        await line.wait_for_agent(ms=800)
        await line.say(read_wav((DATA / "librivox-0880.ulaw.wav").read_bytes())[: 8 * 1500])
        clear = await line.wait_for_clear()
        (told,) = (each for each in w.model.sessions[0].truncations if each.audio_end_ms)
        assert -60 <= told.audio_end_ms - clear.heard_to / 8 <= 20


async def test_a_line_that_stalls_in_mid_word_does_not_stop_the_conversation(world: Worlds) -> None:
    async with world(Agent(instructions="x"), 'default = "Yes."') as w, w.phone().dial() as line:
        session = await w.until(lambda: w.model.sessions and w.model.sessions[0])
        line.pause_media(False)
        speaking = VOICE.render("This sentence is going to be cut off by the network in the middle of it.")
        await line.say(speaking[: 8 * 900])
        line.pause_media(True)
        await line.wait_for_agent(ms=100, timeout=6)
        assert session.caller_turns
        line.pause_media(False)


async def test_keys_are_told(world: Worlds) -> None:
    async with world(Agent(instructions="x")) as w, w.phone().dial() as line:
        await line.press("12#")
        await w.until(lambda: len(w.of(KeyPressed)) == 3)
        assert "".join(each.digit for each in w.of(KeyPressed)) == "12#"


async def test_the_caller_may_be_unknown(world: Worlds) -> None:
    async with world(Agent(instructions=lambda call: f"{call.caller} {call.called}")) as w:
        async with w.phone(caller=None).dial():
            await w.until(lambda: w.of(CallStarted))
        assert w.of(CallStarted)[0].caller is None
        assert w.model.sessions[0].session["instructions"] == "None +15550100002"


async def test_instructions_that_fail_lead_to_an_apology(world: Worlds) -> None:
    def broken(call: object) -> str:
        raise LookupError("the database is down")

    async with world(Agent(instructions=broken)) as w:
        async with w.phone().dial() as line:
            await line.wait_ended(15)
        await w.until(lambda: w.of(CallEnded))
        assert w.of(CallEnded)[0].reason == "the agent's instructions failed: LookupError"


async def test_a_picky_server_gets_what_it_takes_and_that_is_said(world: Worlds) -> None:
    faults = Faults(refuse_models=frozenset({"gpt-transcribe"}), refuse_fields=frozenset({"audio.output.voice"}))
    async with world(Agent(instructions="x", greeting="Hi!"), model=Model(faults=faults)) as w:
        async with w.phone().dial() as line:
            await line.wait_for_silence(ms=100)
        await w.until(lambda: len(w.of(Trouble)) >= 2)
        said = " ".join(each.what for each in w.of(Trouble))
        assert "transcription by gpt-transcribe" in said
        assert "audio.output.voice" in said


async def test_a_beta_server_is_spoken_to_in_beta(world: Worlds) -> None:
    from phoneagent import Endpoint

    model = Model(Script.parse('default = "Certainly, that is what we do here all day long."'), service=ANY_BETA)
    async with model:
        far = Endpoint(f"{model.url}?model=m", {"OpenAI-Beta": "realtime=v1"})
        async with world(Agent(instructions="x", greeting="Hi!"), endpoint=far) as w:
            async with w.phone().dial() as line:
                await line.wait_for_silence(ms=100)
                await line.say(VOICE.render("Hello?"))
                await line.wait_for_agent(ms=500)
                await line.say(VOICE.render("Stop, I have heard enough."))
                await line.wait_for_clear()
                await w.until(lambda: w.of(BargeIn))
            (session,) = model.sessions
            assert session.dialect == "beta"
            assert session.truncations[0].ok
            assert model.violations == []
            await w.until(lambda: w.of(TurnEnded))
            assert w.of(TurnEnded)[0].turn.text == "Hi!"
