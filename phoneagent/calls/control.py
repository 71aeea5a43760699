"""The control of a live call by user code (`Call`), from any thread."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal, Protocol

from phoneagent.agent.agent import Agent
from phoneagent.agent.call import Playable, ToolDefinition
from phoneagent.bridge.asking import MAX_QUESTIONS, Question
from phoneagent.bridge.caller import PushToTalk
from phoneagent.bridge.clips import Sounds
from phoneagent.bridge.conversation import Conversation
from phoneagent.bridge.history import Role
from phoneagent.bridge.keys import Gather, Keys
from phoneagent.bridge.prompts import Sound
from phoneagent.bridge.steps import Transfer
from phoneagent.errors import DefinitionError, ToolError
from phoneagent.protocol.tones import WAITS_MS, tones

log = logging.getLogger("phoneagent.calls.control")


class Talk(Protocol):
    """The sans-I/O machine of a call (`Bridge`), or of a text conversation (`Chat`)."""

    @property
    def conversation(self) -> Conversation: ...
    @property
    def push_to_talk(self) -> PushToTalk: ...
    @property
    def keys(self) -> Keys | None: ...
    @property
    def sounds(self) -> Sounds | None: ...
    def interrupt(self, now: float) -> None: ...
    def mute(self, now: float, *, muted: bool) -> None: ...
    def hang_up(self, now: float, *, goodbye: bool = True) -> None: ...
    def move_on(self, now: float) -> None: ...


class Recorder(Protocol):
    """The recorder of a call."""

    def start(self, now: float) -> None: ...
    def pause(self, now: float) -> None: ...
    def stop(self, now: float) -> None: ...


class Transfers(Protocol):
    """The transfers of a call on the telephone."""

    def problem(self, *, warm: bool) -> str | None:
        """Return why the call cannot be transferred now; None if it can. Any thread may call it."""

    def begin(self, step: Transfer, *, warm: bool) -> None:
        """Transfer the call."""


class Control:
    """The control of one call. A request takes effect at once in the call's own loop, else as soon as the loop runs it.

    `agent` returns the agent that has the call now; with `manual` the user's code marks the turns; `flush` writes the
    resulting output. Without `transfers` the call is not on the telephone.
    """

    def __init__(
        self,
        talk: Talk,
        agent: Callable[[], Agent],
        *,
        manual: bool,
        flush: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
        recorder: Recorder | None = None,
        transfers: Transfers | None = None,
    ) -> None:
        self._talk = talk
        self._agent = agent
        self._manual = manual
        self._flush = flush
        self._loop = loop
        self._recorder = recorder
        self._transfers = transfers
        self._gathered: asyncio.Future[None] | None = None
        self._asked: set[asyncio.Future[None]] = set()
        self._over = False

    def say(self, text: str, *, interruptible: bool) -> None:
        self._do(lambda talk, now: talk.conversation.say(text, interruptible=interruptible))

    def interrupt(self) -> None:
        self._do(lambda talk, now: talk.interrupt(now))

    @property
    def muted(self) -> bool:
        """Whether the agent is muted."""
        return self._talk.conversation.responses.muted

    def mute(self, *, muted: bool) -> None:
        self._do(lambda talk, now: talk.mute(now, muted=muted))

    def hang_up(self, *, goodbye: bool) -> None:
        self._do(lambda talk, now: talk.hang_up(now, goodbye=goodbye))

    def add(self, text: str, role: Role, image: str | None = None) -> None:
        self._do(lambda talk, now: talk.conversation.add(text, role, now, image=image))

    def respond(self, instructions: str | None, tools: Sequence[ToolDefinition] | None) -> None:
        options = self._agent().response(instructions, tools)
        self._do(lambda talk, now: talk.conversation.respond(options))

    def commit(self) -> None:
        self._by_hand("commit")
        self._do(lambda talk, now: talk.push_to_talk.commit())

    def clear(self) -> None:
        self._by_hand("clear")
        self._do(lambda talk, now: talk.push_to_talk.clear())

    def play(self, clip: Playable, *, interruptible: bool) -> None:
        text = clip.text or f"[{clip.name}]"
        told = f"A recording is played to the caller now, in your name: {text}"
        self._play(Sound(clip.payload, text, told, protected=not interruptible))

    def send_digits(self, digits: str) -> None:
        pressed = sum(each not in WAITS_MS for each in digits)
        payload = base64.b64encode(tones(digits)).decode()
        self._play(Sound(payload, f"[keys pressed: {pressed}]", protected=True, over_speech=True))

    def transfer(self, step: Transfer, *, warm: bool) -> None:
        transfers, problem = self._transfers, self.transfer_problem(warm=warm)
        if transfers is None or problem is not None:
            raise ToolError(f"the call cannot be transferred: {problem}")
        self._do(lambda talk, now: transfers.begin(step, warm=warm))

    def transfer_problem(self, *, warm: bool) -> str | None:
        if self._transfers is None:
            return "a conversation in writing has no line"
        return self._transfers.problem(warm=warm)

    def _play(self, sound: Sound) -> None:
        self._do(lambda talk, now: talk.sounds is not None and talk.sounds.play(sound))

    def record(self, what: Literal["start", "pause", "stop"]) -> None:
        if (recorder := self._recorder) is None:
            log.warning("the call is not recorded: set RECORD_AUDIO to a folder or a URL")
            return
        act = {"start": recorder.start, "pause": recorder.pause, "stop": recorder.stop}[what]
        self._do(lambda talk, now: act(now))

    async def gather(self, digits: int, timeout: float, finish_on: str) -> Gather:
        done = self._loop.create_future()  # a result without the digits: a task's repr shows what it waits for
        gather = Gather(digits, timeout, finish_on, lambda: _settle(done))
        await self._here(self._gather(gather, done))
        return gather

    async def _gather(self, gather: Gather, done: asyncio.Future[None]) -> None:
        keys, now = self._talk.keys, self._loop.time()
        if keys is None:
            raise ToolError("no digits can be gathered: a conversation in writing has no telephone keys")
        if self._over:
            raise ToolError("no digits can be gathered: the call is over")
        if not keys.begin(gather, now):
            raise ToolError("digits are being gathered already: wait until the caller has typed those")
        self._gathered = done
        try:
            self._do(lambda talk, now: None)
            await done
        finally:
            keys.give_up(gather)
            self._do(lambda talk, now: None)

    async def ask(self, instructions: str, input: str | None, timeout: float) -> Question:
        done = self._loop.create_future()  # a result without the answer, as above
        question = Question(instructions, input, lambda: _settle(done))
        await self._here(self._ask(question, done, timeout))
        if question.problem is not None:
            raise ToolError(f"the model did not answer: {question.problem}")
        return question

    async def _ask(self, question: Question, done: asyncio.Future[None], timeout: float) -> None:
        conversation = self._talk.conversation
        if self._over:
            raise ToolError("the model cannot be asked: the call is over")
        if not conversation.ask(question):
            raise ToolError(f"the model cannot be asked: {MAX_QUESTIONS} questions are open already, await those first")
        self._asked.add(done)
        try:
            self._do(lambda talk, now: None)
            async with asyncio.timeout(timeout):
                await done
        except TimeoutError:
            raise ToolError(f"the model did not answer within {timeout:g} s") from None
        finally:
            self._asked.discard(done)
            conversation.questions.give_up(question)

    async def _here(self, work: Coroutine[Any, Any, None]) -> None:
        """Await something in the call's own loop."""
        if asyncio.get_running_loop() is self._loop:
            await work
        else:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def close(self) -> None:
        """End the waits for digits and answers: the media stream is over."""
        self._over = True
        for asked in self._asked:
            if not asked.done():
                asked.set_exception(
                    ToolError("the call ended, or moved to another media stream, before the model answered")
                )
        if self._gathered is not None and not self._gathered.done():
            self._gathered.set_exception(
                ToolError("the call ended, or moved to another media stream, before the digits were typed")
            )

    def _by_hand(self, what: str) -> None:
        if not self._manual:
            raise DefinitionError(
                f"call.{what} is for turns that your code marks: give the agent that answers "
                'turns=Turns(detection="manual"), or leave turns to the model'
            )

    def _do(self, act: Callable[[Talk, float], object]) -> None:
        def run() -> None:
            now = self._loop.time()
            act(self._talk, now)
            self._talk.move_on(now)  # the request may be possible at once
            self._flush()

        try:
            inside = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            inside = False
        if inside:
            run()
        else:
            self._loop.call_soon_threadsafe(run)


def _settle(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
