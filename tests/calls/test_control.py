"""The control of a live call, over a real bridge: at once in the call's loop, soon from any other thread."""

from __future__ import annotations

import asyncio
import base64
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from phoneagent import Agent, Clip, tool
from phoneagent.bridge.bridge import Bridge
from phoneagent.bridge.chat import Chat
from phoneagent.bridge.policy import Policy
from phoneagent.bridge.requests import EndCall
from phoneagent.bridge.steps import Transfer
from phoneagent.calls.control import Control
from phoneagent.errors import DefinitionError, ToolError
from phoneagent.protocol import carrier, realtime
from phoneagent.protocol.realtime import AudioClear, AudioCommit, ItemCreate, ResponseCreate
from phoneagent.sim.tones import ToneEar
from tests.patience import HANG_SECONDS
from tests.protocol.test_wav import riff

pytestmark = pytest.mark.anyio


@tool
async def book() -> str:
    """Book."""
    return "booked"


class Rig:
    """A call that has begun, and what was written of it whenever it was flushed."""

    def __init__(self, *, manual: bool = False) -> None:
        self.loop = asyncio.get_running_loop()
        now = self.loop.time()
        self.bridge = Bridge(Policy(manual_turns=manual), call_sid="CA1")
        self.bridge.receive_from_caller(
            carrier.Started(stream_sid="MZ1", call_sid="CA1", account_sid="AC1"), self.loop.time()
        )
        self.bridge.model_opened({}, now)
        self.bridge.model_connected(now)
        self.agent = Agent(instructions="x", tools=[book])
        self.to_model: list[realtime.ToModel] = []
        self.flushed_in: list[int] = []
        self.control = Control(self.bridge, lambda: self.agent, manual=manual, flush=self.flush, loop=self.loop)

    def flush(self) -> None:
        self.flushed_in.append(threading.get_ident())
        while messages := self.bridge.take_for_model(self.loop.time(), 16):
            self.to_model.extend(messages)

    def sent(self, kind: type) -> list[Any]:
        return [message for message in self.to_model if isinstance(message, kind)]

    def speaks(self) -> None:
        """Let the agent begin to speak."""
        now = self.loop.time()
        created = realtime.ResponseCreated(response=realtime.Response(id="r1", status="in_progress"))
        self.bridge.receive_from_model(created, now)
        self.bridge.receive_from_model(realtime.AudioDelta(response_id="r1", item_id="i1", delta="////"), now)
        while self.bridge.take_for_caller(now, 16):
            pass


# --- what is asked for ---


async def test_what_is_to_be_said_is_asked_for_at_once() -> None:
    rig = Rig()
    rig.control.say("Good evening!", interruptible=True)
    assert [type(message) for message in rig.to_model] == [ItemCreate, ResponseCreate]
    assert "Good evening!" in str(rig.to_model)
    assert len(rig.flushed_in) == 1


async def test_a_message_is_added_and_not_answered() -> None:
    rig = Rig()
    rig.control.add("It rains.", "user")
    (item,) = rig.sent(ItemCreate)
    assert (item.item["role"], item.item["content"][0]["text"]) == ("user", "It rains.")
    assert rig.sent(ResponseCreate) == []


async def test_a_response_with_options_of_its_own() -> None:
    rig = Rig()
    rig.control.respond("Be quick.", [])
    (create,) = rig.sent(ResponseCreate)
    assert create.response["instructions"] == "Be quick."
    assert create.response["tools"] == []


async def test_a_response_with_tools_of_the_agent_that_has_the_call_now() -> None:
    rig = Rig()
    rig.control.respond(None, [book])
    rig.agent = Agent(instructions="y")
    with pytest.raises(DefinitionError):
        rig.control.respond(None, [book])
    assert len(rig.sent(ResponseCreate)) == 1
    assert len(rig.flushed_in) == 1


async def test_the_agent_is_interrupted() -> None:
    rig = Rig()
    rig.speaks()
    rig.control.interrupt()
    assert isinstance(rig.bridge.take_for_caller(rig.loop.time(), 16)[0], carrier.Clear)
    assert rig.sent(realtime.ResponseCancel)


@pytest.mark.parametrize("goodbye", [True, False])
async def test_the_call_is_hung_up_with_or_without_a_goodbye(goodbye: bool) -> None:
    rig = Rig()
    rig.control.hang_up(goodbye=goodbye)
    assert len(rig.sent(ResponseCreate)) == goodbye
    over = any(isinstance(request, EndCall) for request in rig.bridge.requests)
    assert over is not goodbye  # with nothing more to be heard it is over at once


# --- turns that the user's code marks ---


async def test_turns_are_marked() -> None:
    rig = Rig(manual=True)
    rig.control.clear()
    rig.control.commit()
    assert [type(message) for message in rig.to_model] == [AudioClear, AudioCommit]


@pytest.mark.parametrize("what", ["commit", "clear"])
async def test_turns_that_the_model_finds_cannot_be_marked(what: str) -> None:
    rig = Rig()
    with pytest.raises(DefinitionError, match=rf"call\.{what} is for turns that your code marks"):
        getattr(rig.control, what)()
    assert rig.flushed_in == []


# --- from elsewhere ---

ACTS: list[Callable[[Control], None]] = [
    lambda control: control.say("Hello.", interruptible=True),
    lambda control: control.respond(None, None),
    lambda control: control.hang_up(goodbye=True),
]


@pytest.mark.parametrize("act", ACTS)
async def test_from_another_thread_it_happens_in_the_loop_of_the_call(act: Callable[[Control], None]) -> None:
    rig = Rig()
    thread = threading.Thread(target=act, args=[rig.control])
    thread.start()
    thread.join()
    assert rig.to_model == []  # not in that thread
    async with asyncio.timeout(HANG_SECONDS):
        while not rig.flushed_in:
            await asyncio.sleep(0)
    assert rig.flushed_in == [threading.get_ident()]
    assert len(rig.sent(ResponseCreate)) == 1


async def test_from_another_loop_it_happens_in_the_loop_of_the_call() -> None:
    rig = Rig()

    async def elsewhere() -> None:
        rig.control.say("Hello.", interruptible=True)

    await asyncio.to_thread(asyncio.run, elsewhere())
    async with asyncio.timeout(HANG_SECONDS):
        while not rig.flushed_in:
            await asyncio.sleep(0)
    assert rig.flushed_in == [threading.get_ident()]


async def test_a_mistake_is_told_in_the_thread_that_makes_it() -> None:
    rig = Rig()
    errors: list[Exception] = []

    def act() -> None:
        try:
            rig.control.commit()
        except DefinitionError as error:
            errors.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
    assert len(errors) == 1


# --- sounds ---


def played(rig: Rig) -> bytes:
    audio: list[carrier.ToCarrier] = []
    while messages := rig.bridge.take_for_caller(rig.loop.time(), 64):
        audio.extend(messages)
    return b"".join(base64.b64decode(each.payload) for each in audio if isinstance(each, carrier.Audio))


async def test_a_clip_is_played_and_the_model_learns_its_words() -> None:
    rig = Rig()
    rig.control.play(Clip(riff(7, 1, 8000, 8, b"\x55" * 400), text="We record."), interruptible=True)
    assert played(rig) == b"\x55" * 400
    assert "We record." in str(rig.sent(ItemCreate))
    assert rig.sent(ResponseCreate) == []


async def test_digits_are_sent_as_tones_and_named_nowhere() -> None:
    rig = Rig()
    rig.control.send_digits("1ww23#")
    assert ToneEar().hear(played(rig)) == "123#"
    assert "123#" not in str(rig.to_model) + str(rig.bridge.dialogue.transcript.so_far(0))
    assert rig.bridge.dialogue.transcript.so_far(0)[0].text == "[keys pressed: 4]"


# --- digits ---


def press(rig: Rig, digits: str) -> None:
    for digit in digits:
        rig.bridge.receive_from_caller(carrier.Key(digit), rig.loop.time())


async def gathering(rig: Rig) -> None:
    async with asyncio.timeout(HANG_SECONDS):
        while not rig.bridge.keys.gathering:
            await asyncio.sleep(0)


async def test_digits_are_gathered_and_no_repr_on_the_way_shows_them() -> None:
    rig = Rig()
    task = asyncio.create_task(rig.control.gather(4, 5, "#"))
    await gathering(rig)
    press(rig, "1973")
    shown = repr(task)  # what asyncio logs of a slow task in its debug mode
    gather = await task
    assert gather.typed == "1973"
    shown += repr(task) + repr(gather) + repr(rig.bridge.keys.__dict__)
    assert "1973" not in re.sub(r"0x[0-9a-f]+|Task-[0-9]+", "", shown)


async def test_digits_are_gathered_from_another_loop() -> None:
    rig = Rig()
    elsewhere = asyncio.create_task(asyncio.to_thread(asyncio.run, rig.control.gather(2, 5, "#")))
    await gathering(rig)
    press(rig, "42")
    assert (await elsewhere).typed == "42"


async def test_a_gather_that_is_cancelled_gathers_no_more() -> None:
    rig = Rig()
    task = asyncio.create_task(rig.control.gather(4, 5, "#"))
    await gathering(rig)
    task.cancel()
    await asyncio.wait([task])
    assert not rig.bridge.keys.gathering
    again = asyncio.create_task(rig.control.gather(1, 5, "#"))
    await gathering(rig)
    press(rig, "7")
    assert (await again).typed == "7"


async def test_a_gather_within_a_gather_is_refused() -> None:
    rig = Rig()
    task = asyncio.create_task(rig.control.gather(1, 5, "#"))
    await gathering(rig)
    with pytest.raises(ToolError, match="already"):
        await rig.control.gather(1, 5, "#")
    press(rig, "7")
    assert (await task).typed == "7"


async def test_a_gather_ends_with_its_stream() -> None:
    rig = Rig()
    task = asyncio.create_task(rig.control.gather(4, 5, "#"))
    await gathering(rig)
    rig.control.close()
    with pytest.raises(ToolError, match="ended, or moved to another media stream"):
        await task
    with pytest.raises(ToolError, match="the call is over"):
        await rig.control.gather(4, 5, "#")


# --- questions beside the conversation ---


async def asked(rig: Rig, count: int = 1) -> list[ResponseCreate]:
    async with asyncio.timeout(HANG_SECONDS):
        while len(rig.sent(ResponseCreate)) < count:
            await asyncio.sleep(0)
    return rig.sent(ResponseCreate)


async def answer(rig: Rig, text: str = "Booked.", **done: Any) -> None:
    create = (await asked(rig))[-1]
    response = realtime.Response(id="q1", metadata=create.response["metadata"])
    rig.bridge.receive_from_model(realtime.ResponseCreated(response=response), rig.loop.time())
    rig.bridge.receive_from_model(realtime.TextDelta(response_id="q1", delta=text), rig.loop.time())
    ended = realtime.Response(id="q1", **{"status": "completed", **done})
    rig.bridge.receive_from_model(realtime.ResponseDone(response=ended), rig.loop.time())


async def test_the_model_is_asked_and_no_repr_on_the_way_shows_the_answer() -> None:
    rig = Rig()
    task = asyncio.create_task(rig.control.ask("Summarize.", None, 15))
    await answer(rig)
    shown = repr(task)
    question = await task
    assert question.answer == "Booked."
    assert "Booked." not in shown + repr(task) + repr(question)


async def test_the_model_is_asked_from_another_loop() -> None:
    rig = Rig()
    elsewhere = asyncio.create_task(asyncio.to_thread(asyncio.run, rig.control.ask("Summarize.", "It rains.", 15)))
    await answer(rig)
    assert (await elsewhere).answer == "Booked."


async def test_a_question_takes_no_longer_than_its_time() -> None:
    rig = Rig()
    with pytest.raises(ToolError, match=r"did not answer within 0\.05 s"):
        await rig.control.ask("Summarize.", None, 0.05)
    await answer(rig, "Too late.")
    assert rig.bridge.playback.idle


async def test_a_question_without_an_answer_says_why() -> None:
    rig = Rig()
    task = asyncio.create_task(rig.control.ask("Summarize.", None, 15))
    await answer(rig, status="incomplete")
    with pytest.raises(ToolError, match="did not answer: the answer is incomplete"):
        await task


async def test_too_many_questions_at_once_are_refused() -> None:
    rig = Rig()
    tasks = [asyncio.create_task(rig.control.ask("Summarize.", None, 15)) for _ in range(4)]
    await asked(rig, 4)
    with pytest.raises(ToolError, match="4 questions are open"):
        await rig.control.ask("Summarize.", None, 15)
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])
    fifth = asyncio.create_task(rig.control.ask("Summarize.", None, 15))
    await asked(rig, 5)
    for task in (*tasks, fifth):
        task.cancel()
    await asyncio.wait([*tasks, fifth])


async def test_a_question_ends_with_its_stream() -> None:
    rig = Rig()
    task = asyncio.create_task(rig.control.ask("Summarize.", None, 15))
    await asked(rig)
    rig.control.close()
    with pytest.raises(ToolError, match="ended, or moved to another media stream"):
        await task
    with pytest.raises(ToolError, match="the call is over"):
        await rig.control.ask("Summarize.", None, 15)


async def test_a_recording_is_the_recorder_s(caplog: pytest.LogCaptureFixture) -> None:
    rig, done = Rig(), list[str]()

    class Recorder:
        def start(self, now: float) -> None:
            done.append("start")

        def pause(self, now: float) -> None:
            done.append("pause")

        def stop(self, now: float) -> None:
            done.append("stop")

    rig.control.record("start")
    assert "set RECORD_AUDIO to a folder or a URL" in caplog.text
    control = Control(rig.bridge, lambda: rig.agent, manual=False, flush=rig.flush, loop=rig.loop, recorder=Recorder())
    control.record("start")
    await asyncio.to_thread(control.record, "pause")
    control.record("stop")
    await asyncio.sleep(0)
    assert sorted(done) == ["pause", "start", "stop"]
    assert set(rig.flushed_in) == {threading.get_ident()}


# --- a conversation in writing ---


async def test_a_conversation_in_writing_has_no_keys() -> None:
    chat = Chat()
    loop = asyncio.get_running_loop()
    control = Control(chat, lambda: Agent(instructions="x"), manual=False, flush=lambda: None, loop=loop)
    control.send_digits("1")  # it is not heard by anything
    assert chat.idle
    with pytest.raises(ToolError, match="no telephone keys"):
        await control.gather(4, 5, "#")


async def test_a_conversation_in_writing_is_controlled_the_same_way() -> None:
    loop = asyncio.get_running_loop()
    chat, sent = Chat(), list[realtime.ToModel]()

    def flush() -> None:
        while (message := chat.next_to_model()) is not None:
            sent.append(message)

    control = Control(chat, lambda: Agent(instructions="x"), manual=False, flush=flush, loop=loop)
    control.add("It rains.", "system")
    assert [type(message) for message in sent] == [ItemCreate]
    control.respond(None, None)
    assert isinstance(sent[-1], ResponseCreate)
    control.hang_up(goodbye=False)
    assert not chat.over  # the answer is still to come
    response = realtime.Response(id="r1", status="completed")
    chat.receive(realtime.ResponseCreated(response=response), loop.time())
    chat.receive(realtime.ResponseDone(response=response), loop.time())
    assert chat.over


async def test_a_muted_agent_asks_for_nothing_until_it_is_heard_again() -> None:
    rig = Rig()
    rig.control.mute(muted=True)
    assert rig.control.muted
    rig.control.say("Good evening!", interruptible=True)
    assert rig.sent(ResponseCreate) == []
    rig.control.mute(muted=False)
    assert not rig.control.muted
    assert len(rig.sent(ResponseCreate)) == 1


async def test_an_agent_that_writes_is_muted_the_same_way() -> None:
    loop = asyncio.get_running_loop()
    chat = Chat()
    control = Control(chat, lambda: Agent(instructions="x"), manual=False, flush=lambda: None, loop=loop)
    control.mute(muted=True)
    control.respond(None, None)
    assert chat.next_to_model() is None
    control.mute(muted=False)
    assert isinstance(chat.next_to_model(), ResponseCreate)


class Transfers:
    """The transfers of a call, as a test has them."""

    def __init__(self, problem: str | None) -> None:
        self.begun: list[tuple[Transfer, bool, int]] = []
        self._problem = problem

    def problem(self, *, warm: bool) -> str | None:
        return self._problem

    def begin(self, step: Transfer, *, warm: bool) -> None:
        self.begun.append((step, warm, threading.get_ident()))


async def test_a_transfer_begins_in_the_calls_own_loop_from_any_thread() -> None:
    loop, transfers = asyncio.get_running_loop(), Transfers(None)
    chat = Chat()
    control = Control(
        chat, lambda: Agent(instructions="x"), manual=False, flush=lambda: None, loop=loop, transfers=transfers
    )
    step = Transfer(to="client:anna", name="Anna")
    await asyncio.to_thread(control.transfer, step, warm=True)
    await asyncio.sleep(0)
    assert transfers.begun == [(step, True, threading.get_ident())]


@pytest.mark.parametrize(("transfers", "words"), [(None, "has no line"), (Transfers("it is over"), "it is over")])
async def test_a_call_that_cannot_be_transferred_says_why(transfers: Transfers | None, words: str) -> None:
    loop = asyncio.get_running_loop()
    chat = Chat()
    control = Control(
        chat, lambda: Agent(instructions="x"), manual=False, flush=lambda: None, loop=loop, transfers=transfers
    )
    with pytest.raises(ToolError, match=words):
        control.transfer(Transfer(to="client:anna", name="Anna"), warm=False)
