"""The control of a live call, over a real bridge: at once in the call's loop, soon from any other thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from phoneagent import Agent, tool
from phoneagent.bridge.bridge import Bridge
from phoneagent.bridge.chat import Chat
from phoneagent.bridge.policy import Policy
from phoneagent.bridge.requests import EndCall
from phoneagent.calls.control import Control
from phoneagent.errors import DefinitionError
from phoneagent.protocol import carrier, realtime
from phoneagent.protocol.realtime import AudioClear, AudioCommit, ItemCreate, ResponseCreate

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
    rig.control.say("Good evening!")
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
    lambda control: control.say("Hello."),
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
    async with asyncio.timeout(5):
        while not rig.flushed_in:
            await asyncio.sleep(0)
    assert rig.flushed_in == [threading.get_ident()]
    assert len(rig.sent(ResponseCreate)) == 1


async def test_from_another_loop_it_happens_in_the_loop_of_the_call() -> None:
    rig = Rig()

    async def elsewhere() -> None:
        rig.control.say("Hello.")

    await asyncio.to_thread(asyncio.run, elsewhere())
    async with asyncio.timeout(5):
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


# --- a conversation in writing ---


async def test_a_conversation_in_writing_is_controlled_alike() -> None:
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
