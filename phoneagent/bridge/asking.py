"""Questions to the model outside the conversation: out-of-band responses, which the caller does not hear.

A question is a `response.create` with `conversation: "none"`. It may run in parallel with the response that the caller
hears. The server adds neither it nor its answer to the conversation. Its events have the same types as any other
response's. So they are taken here, before the rest of the bridge reads them: they are not a sound, a turn, an answer,
or a sign of life of the response that the caller waits for.

An answer is identified by its metadata. A server that returns none is still understood in a spoken conversation,
because there nothing else is written without a voice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from phoneagent.protocol.items import user_message
from phoneagent.protocol.realtime import (
    ArgumentsDone,
    AudioDelta,
    AudioDone,
    Error,
    FromModel,
    OutputItemAdded,
    OutputItemDone,
    Response,
    ResponseCreate,
    ResponseCreated,
    ResponseDone,
    TextDelta,
    ToModel,
    TranscriptDelta,
    TranscriptDone,
    Unknown,
)

_T = TypeVar("_T")

QUESTION_KEY = "phoneagent_question"
"""The responses to questions carry their number under this key."""

MAX_QUESTIONS = 4
"""How many questions of a call may be open at the same time; more are refused."""

MAX_ANSWER_TOKENS = 2_048
MAX_ANSWER_CHARS = 16_384
"""How much of an answer is kept, even if the server ignores the limit in tokens."""

MAX_REMEMBERED = 32
"""How many responses to questions are remembered, because their events may still come."""

_WRITTEN = ("response.output_text.done", "response.text.done")

_OfResponse = (
    AudioDelta,
    AudioDone,
    TextDelta,
    TranscriptDelta,
    TranscriptDone,
    OutputItemAdded,
    OutputItemDone,
    ArgumentsDone,
)


@dataclass(slots=True, eq=False)
class Question:
    """A question and its result. Without `input`, it is about the conversation so far.

    `settled` is called once, when there is an `answer` or a `problem`.
    """

    instructions: str = field(repr=False)
    input: str | None = field(repr=False)
    settled: Callable[[], None] = field(repr=False)
    answer: str = field(default="", repr=False)
    problem: str | None = None
    done: bool = False

    def settle(self, problem: str | None = None) -> None:
        """Note that the answer is complete, or why there is none."""
        if not self.done:
            self.done, self.problem = True, problem
            self.settled()


class Questions:
    """The open questions of a call. Their requests go to `outbox`."""

    def __init__(self, outbox: deque[ToModel], *, spoken: bool) -> None:
        self._outbox = outbox
        self._spoken = spoken
        self._waiting: list[Question] = []
        self._asked: dict[str, Question] = {}  # by the event id of the request; no response was created yet
        self._running: dict[str, Question | None] = {}  # by response id, until it is done; None if forgotten
        self._over: deque[str] = deque(maxlen=MAX_REMEMBERED)
        self._number = 0

    def ask(self, question: Question) -> bool:
        """Ask as soon as the server accepts it. Return False if too many questions are open."""
        if len(self._open()) >= MAX_QUESTIONS:
            return False
        self._waiting.append(question)
        return True

    def _open(self) -> list[Question]:
        """Return the questions without an answer, oldest first."""
        questions = [*self._running.values(), *self._asked.values(), *self._waiting]
        return [question for question in questions if question is not None and not question.done]

    def give_up(self, question: Question) -> None:
        """Drop a question. Its response ends by itself: a server that ignores the id would cancel another one."""
        question.done = True
        self._waiting = [each for each in self._waiting if each is not question]

    def new_session(self) -> None:
        """Switch to another session: ask it what the one before has not answered."""
        self._waiting = self._open()
        for question in self._waiting:
            question.answer = ""
        self._asked.clear()
        self._running.clear()
        self._over.clear()

    def poll(self, *, holds_back: bool) -> None:
        """Send the questions that wait, unless the server `holds_back`: it would refuse them now."""
        if holds_back:
            return
        for question in self._waiting:
            self._number += 1
            event_id = f"question_{self._number}"
            _remember(self._asked, event_id, question)
            self._outbox.append(ResponseCreate(event_id=event_id, response=self._options(question)))
        self._waiting.clear()

    def _options(self, question: Question) -> dict[str, Any]:
        asked = {} if question.input is None else {"input": [user_message(question.input)]}
        return {
            "conversation": "none",
            "output_modalities": ["text"],
            "instructions": question.instructions,
            **asked,
            "tools": [],
            "tool_choice": "none",
            "max_output_tokens": MAX_ANSWER_TOKENS,
            "metadata": {QUESTION_KEY: str(self._number)},
        }

    # --- what the server says ---

    def take(self, event: FromModel) -> bool:
        """Handle an event if it belongs to a question. Return whether it did, so that nothing else reads it."""
        if not (self._asked or self._running or self._over):
            return False  # most calls have no questions
        match event:
            case ResponseCreated(response=response):
                return self._created(response)
            case ResponseDone(response=response):
                return self._done(response)
            case Error(error=failure):
                question = self._asked.pop(failure.event_id or "", None)
                if question is not None:
                    question.settle(f"the model refused it: {failure.code or failure.message or 'no reason given'}")
                return question is not None
            case Unknown(type=kind):
                return kind in _WRITTEN and bool(self._running)
            case _:
                return isinstance(event, _OfResponse) and self._output(event, event.response_id or "")

    def _created(self, response: Response) -> bool:
        event_id = self._event_id(response)
        if event_id is None:
            return False
        question = self._asked.pop(event_id, None)
        if response.id is not None:
            _remember(self._running, response.id, question)
        elif question is not None:
            question.settle("its answer has no id")
        return True

    def _event_id(self, response: Response) -> str | None:
        """Return the event id of the request that a response answers; None if it answers no question."""
        if response.metadata:
            number = response.metadata.get(QUESTION_KEY)
            return None if number is None else f"question_{number}"
        writes = response.output_modalities == ["text"]
        return next(iter(self._asked), None) if self._spoken and writes else None

    def _output(self, event: object, response_id: str) -> bool:
        if response_id not in self._running:
            return response_id in self._over
        question = self._running[response_id]
        if question is not None and isinstance(event, TextDelta | TranscriptDelta):
            question.answer = (question.answer + event.delta)[:MAX_ANSWER_CHARS]
        return True

    def _done(self, response: Response) -> bool:
        response_id = response.id or ""
        if response_id not in self._running and (response_id in self._over or not self._created(response)):
            return response_id in self._over
        question = self._running.pop(response_id, None)
        self._over.append(response_id)
        if question is None:
            return True
        details = response.status_details
        failure = details.error if details is not None else None
        if response.status not in (None, "completed"):
            reason = (failure and (failure.code or failure.type)) or (details and details.reason) or "no reason given"
            question.settle(f"the answer is {response.status}: {reason}")
        else:
            question.settle(None if question.answer.strip() else "the model answered with nothing")
        return True


def _remember(questions: dict[str, _T], key: str, question: _T) -> None:
    """Keep a question by an id, and forget the oldest if there are too many."""
    questions[key] = question
    if len(questions) > MAX_REMEMBERED:
        del questions[next(iter(questions))]
