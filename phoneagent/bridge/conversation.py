"""The conversation with a model, by telephone or in writing: responses, tools, errors, and the goodbye.

A phone call (`bridge`) and `phoneagent chat` (`chat`) are its two users. It knows neither audio nor the floor: its
owner passes on the model's events, and acts on the verdicts that come back.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, assert_never

from phoneagent.bridge import prompts
from phoneagent.bridge.asking import Question, Questions
from phoneagent.bridge.history import Note, Role, ToolRun
from phoneagent.bridge.model_errors import ModelErrors
from phoneagent.bridge.prompts import Wanted
from phoneagent.bridge.requests import Ending, RunTool, SessionChanged, State, Verdict
from phoneagent.bridge.responses import MAX_UNANSWERED, ResponseGate
from phoneagent.bridge.signs import Signs
from phoneagent.bridge.toolcalls import ToolCall, ToolCalls
from phoneagent.protocol.items import image_message
from phoneagent.protocol.realtime import (
    Error,
    Failure,
    Item,
    ItemAdded,
    ItemCreate,
    ItemDone,
    ItemTruncate,
    OutputItemDone,
    RateLimits,
    Response,
    SessionUpdate,
    SessionUpdated,
    ToModel,
)

MODEL_STALLED_SECONDS = 12.0
"""A written response that produces nothing for this long is dead."""

MAX_OUTBOX = 1_000
"""How many messages may wait for a model that is missing or does not read, before user code's are refused."""

MAX_CONTINUED = 2
"""How many times in a row something is requested after an answer that the server cut off."""

_FILTERED = re.compile(r"filter|safety|moderation|policy")
"""What is in the reason for an incomplete answer if no limit cut it off, but the server objects to what it says."""

IMAGE = "[image]"
"""The placeholder for an image where there is only text."""

MAX_IMAGES = 4
"""How many images may wait for the model: each is large."""

MAX_NOTES = 100
"""How many messages of user code are remembered for the next session; the oldest is forgotten first."""

_REQUESTS = (
    "item_", "input_audio_buffer", "response_cancel", "conversation_already_has_active_response"
)  # fmt: skip
"""How error codes begin that refuse a request without ending a response."""

_PARAMETERS = ("session", "item", "audio")
"""How the parameters of such errors begin."""

_OUR_EVENT = re.compile(r"(create|truncate|agent)_[0-9]+")

ConversationEvent: TypeAlias = SessionUpdated | ItemAdded | ItemDone | OutputItemDone | RateLimits | Error


class Done(NamedTuple):
    """How a response ended, the trouble to report, and what it means for the session."""

    ending: Ending
    trouble: str = ""
    verdict: Verdict | None = None


class Observer(Protocol):
    """An observer of the conversation; it decides nothing."""

    def tool_called(self, call: ToolCall, now: float) -> None: ...
    def tool_returned(self, call: ToolCall, output: str, now: float) -> None: ...
    def message_added(self, role: Role, text: str, now: float) -> None: ...


class Conversation:
    """One conversation. `now` is in seconds.

    `request` takes what the shell should do, and `observer` what happened. With `spoken`, the model should speak; the
    owner then makes sure that the caller does not wait too long for it (`silence`).
    """

    def __init__(
        self,
        request: Callable[[RunTool | SessionChanged], None],
        observer: Observer,
        *,
        elsewhere: bool = False,
        past: Sequence[ToolRun] = (),
        spoken: bool = True,
    ) -> None:
        self._spoken = spoken
        self._request = request
        self._observer = observer
        self.outbox: deque[ToModel] = deque()
        self.responses = ResponseGate(self.outbox)
        self.signs = Signs(self.responses)
        self.tools = ToolCalls(self.outbox, self.responses, past)
        self.errors = ModelErrors(self.responses, elsewhere=elsewhere)
        self.questions = Questions(self.outbox, spoken=spoken)
        self._changes = _SessionChanges(self.outbox, request)
        self._notes: list[tuple[float, Role, str]] = []
        self.connected = False
        """Whether there is a session, configured as asked."""
        self.event_at = 0.0
        """When anything last came from the model."""
        self.goodbye_due = False
        """Whether the model should say goodbye, and has not begun to."""
        self._goodbye = prompts.goodbye()
        self._over = False
        self._ends_in_time = False
        self._continued = 0

    # --- sessions ---

    def opened(self) -> None:
        """Note that a session is open, but not in use yet: changes to the one before are void."""
        self._changes.new_session()

    def connect(self, now: float) -> None:
        """Note that the session is ready: what waits goes to it."""
        self.connected, self.event_at = True, now

    def disconnect(self) -> None:
        """Note that there is no session left, and none will follow."""
        self.connected = False

    def new_session(self) -> None:
        """Replace a lost session: drop what belonged to it, and keep what the next one needs."""
        self.connected = False
        self.signs.new_session()
        self.responses.new_session()
        if self.tools.new_session() and not self.responses.closing:
            self.responses.owe_answer()
        self.questions.new_session()
        self.outbox.clear()

    def tell_past(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Tell a new session the conversation so far, including items that wait."""
        kept = [message for message in self.outbox if not isinstance(message, ItemCreate | ItemTruncate)]
        self.outbox.clear()
        self.outbox.extend(ItemCreate(item=dict(item)) for item in items)
        self.signs.told(item["call_id"] for item in items if item["type"] == "function_call")
        self.outbox.extend(kept)

    def notes(self, ms: Callable[[float], int]) -> list[Note]:
        """Return what user code has added, in order; `ms` converts a moment to the call's time."""
        return [Note(role=role, text=text, at_ms=ms(at)) for at, role, text in self._notes]

    # --- user code ---

    def say(self, text: str, *, interruptible: bool = True) -> bool:
        """Have exactly this said. Return False if too much is queued, or the conversation is closing."""
        return not self._over and self.responses.want(prompts.exactly(text, protected=not interruptible))

    def ask_consent(self, text: str) -> Wanted | None:
        """Have exactly this said before anything else, even the greeting. Return None where `say` returns False."""
        wanted = prompts.consent(text)
        return wanted if not self._over and self.responses.want(wanted) else None

    def add(self, text: str, role: Role, now: float, *, image: str | None = None) -> bool:
        """Add a message, which is not answered by itself. Return False if too much waits.

        An `image` (a data URL) goes to this session only; the next session and the record have only the text.
        """
        if self._over or len(self.outbox) >= MAX_OUTBOX:
            return False
        if image is None:
            item = Note(role=role, text=text, at_ms=0).item()
        elif sum(map(_has_image, self.outbox)) >= MAX_IMAGES:
            return False
        else:
            item, text = image_message(text, image), f"{text} {IMAGE}".lstrip()
        self.outbox.append(ItemCreate(item=item))
        self._notes.append((now, role, text))
        del self._notes[:-MAX_NOTES]
        self._observer.message_added(role, text, now)
        return True

    def respond(self, options: Mapping[str, Any]) -> bool:
        """Ask for a response with its own options, to everything so far. Return False as `say` does."""
        return not self._over and self.responses.want(Wanted("asked", options=dict(options)))

    def ask(self, question: Question) -> bool:
        """Ask the model out of band. Return False if too many questions are open, or the conversation is over."""
        return not self._over and self.questions.ask(question)

    def change_session(self, session: Mapping[str, Any]) -> str:
        """Change the session (`session` is in GA's shape). Return the id under which `SessionChanged` follows."""
        return self._changes.request(session)

    def ask_whether_alive(self) -> None:
        """Send what a server answers at once without changing anything: an empty update of the session."""
        self._changes.request({"type": "realtime"})

    def tool_returned(self, call_id: str, output: str, now: float, *, respond: bool = True) -> None:
        """Post a tool's output, and have the model `respond` to it. If the conversation is over, only report it.

        Unknown calls change nothing.
        """
        call = self.tools.end(call_id)
        if call is None:
            return
        self._observer.tool_returned(call, output, now)
        if not self._over:
            self.tools.post(call_id, output, respond=respond)

    # --- the goodbye ---

    @property
    def parted(self) -> bool:
        """Whether the newest response spoke as it called a tool that still runs, such as `hang_up` with a goodbye."""
        return self.responses.spoke and self.responses.called and self.tools.running

    def close(self, *, goodbye: bool, timed: bool = False, words: Wanted | None = None) -> None:
        """Prepare the end: nothing more is asked for except (with `goodbye`) a goodbye, or its `words`.

        `timed`: the owner ends it in time, whatever the model does, so an idle model is not given up on.
        """
        self.goodbye_due = goodbye
        self._goodbye = words or prompts.goodbye()
        self._ends_in_time = timed
        self.responses.close()

    def end(self) -> None:
        """End the conversation: nothing more is said or added."""
        self._over = True

    @property
    def more_to_come(self) -> bool:
        """Whether the model will say more."""
        return self.connected and (self.goodbye_due or self.responses.speaking)

    # --- the model's events ---

    def alive(self, now: float) -> None:
        """Note that the model has sent something."""
        self.event_at = now

    def output(self, response_id: str, now: float) -> bool:
        """Handle audio, or written words, of a response. Return whether they are wanted."""
        self.event_at = now
        if not self.responses.audio(response_id):
            return False
        if self.goodbye_due and self.responses.last_words:
            self.goodbye_due = False
        return True

    def response_created(self, response: Response, now: float, *, unwanted: bool = False) -> None:
        """Handle `response.created`. A response that is `unwanted`, or already interrupted, is canceled at once."""
        dropped = self.responses.created(response, now)
        if self.responses.closing:  # only our goodbye is heard
            unwanted = self.responses.current is None or self.responses.current.kind != "goodbye"
        elif dropped or self.responses.muted:
            unwanted = True
        if unwanted:
            self.responses.discard(now)

    def response_done(self, response: Response, now: float) -> Done:
        """Handle `response.done`. Return how the response ended, and what that means."""
        for item in response.output or ():
            if response.status == "completed":
                self._function_call(item, response.id, now)
        was, wrote = self.responses.current, self.responses.wrote
        ending = self.responses.done(response, now)
        if ending is Ending.IGNORED:
            return Done(ending)
        details = response.status_details
        failure, reason = (details.error, details.reason or "") if details is not None else (None, "")
        trouble = ""
        if failure is not None:
            trouble = f"response {response.status}: {failure.code or failure.type or 'no reason given'}"
        elif response.status == "incomplete":
            trouble = f"response incomplete: {reason or 'no reason given'}"
        elif ending in (Ending.RETRIED, Ending.EMPTY, Ending.MUTE) and wrote:
            trouble = "the model answered in text where audio is due: check that the server speaks, and with this voice"
        elif ending is Ending.EMPTY:
            trouble = "the model answered with nothing, twice"
        self._follow_up(ending, was, reason)
        verdict = self.errors.response_ended(ending, failure, now)
        if verdict is None and was is not None and was.kind == "goodbye" and ending is not Ending.RETRIED:
            self.goodbye_due = False
        return Done(ending, trouble, verdict)

    def _follow_up(self, ending: Ending, was: Wanted | None, reason: str) -> None:
        """Ask for more after an answer that was cut off for this `reason`, and for words after two without any."""
        filtered = bool(_FILTERED.search(reason))
        if ending is Ending.SAID:
            self._continued = 0
        elif ending is Ending.CUT and self._continued < MAX_CONTINUED and not self.responses.called:
            if was is None or was.kind not in ("filler", "goodbye"):
                self._continued += 1
                self.responses.want(prompts.filtered() if filtered else prompts.go_on())
        elif ending is Ending.EMPTY and self._spoken and (was is None or was.kind in prompts.ANSWERS):
            self.responses.want(prompts.filtered() if filtered else prompts.unheard())

    def receive(self, event: ConversationEvent, now: float) -> Verdict | None:
        """Handle any other event that is not about audio. Return what it means for the session."""
        match event:
            case SessionUpdated():
                self._changes.taken()
            case ItemAdded(item=item):
                self.responses.item_added(item)
                self.tools.announced(item)
            case ItemDone(item=item):
                self.tools.hosted(item)
            case OutputItemDone(item=item, response_id=response_id):
                self._function_call(item, response_id, now)
            case RateLimits(rate_limits=limits):
                self.errors.limits.update(limits, now)
            case Error(error=failure):
                if not self._changes.refused(failure) and not self._names_request(failure):
                    self.signs.failed(failure, now)
                return self.errors.error(failure, now)
            case _:
                assert_never(event)
        return None

    def _names_request(self, failure: Failure) -> bool:
        """Return whether an error says which request it refuses; otherwise it may be the end of a response.

        The error of a response that was created may name the request that created it.
        """
        if (failure.code or "").startswith(_REQUESTS):
            return True
        if failure.event_id is not None and _OUR_EVENT.fullmatch(failure.event_id):
            return failure.event_id != self.responses.latest_request
        return (failure.param or "").startswith(_PARAMETERS)

    def _function_call(self, item: Item, response_id: str | None, now: float) -> None:
        call = self.tools.begin(item, self.signs.number(response_id), now)
        if call is not None:
            self._run(call, now)

    def release_calls(self, now: float) -> None:
        """Run the tool calls that have waited."""
        for call in self.tools.release(now):
            self._run(call, now)

    def _run(self, call: ToolCall, now: float) -> None:
        self._observer.tool_called(call, now)
        if self.tools.too_many:
            self.tool_returned(call.call_id, '{"error": "too many tool calls in this call"}', now)
        else:
            self._request(RunTool(call.call_id, call.name, call.arguments))

    # --- what follows, and time ---

    def move_on(self, now: float, *, speech: bool = False, playing: bool = False) -> Verdict | None:
        """Ask for the wanted response, if allowed. Return what is wrong with the session, if anything.

        `speech`: the caller has the turn. `playing`: the agent is heard.
        """
        if self.goodbye_due and self.responses.state is State.NONE and not self.responses.waits_for("goodbye"):
            self.responses.want(self._goodbye)
        if not self.connected:
            return None
        self.responses.poll(now, speech=speech, tools_running=self.tools.running)
        self.questions.poll(holds_back=self.responses.holds_back)
        self.tools.poll(now, quiet=not (speech or playing or self.responses.closing or self.responses.muted))
        if self.responses.unanswered >= MAX_UNANSWERED and not self._ends_in_time:
            return Verdict("renew", "the model did not answer repeated requests for a response")
        return None

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due; None while there is no session."""
        if not self.connected:
            return None
        times = (self.responses.get_timer(), self.tools.get_timer(), self.signs.get_timer(), self._stalled_at())
        return min((time for time in times if time is not None), default=None)

    def handle_timer(self, now: float) -> Verdict | None:
        """Give up on what the model does not do in time."""
        stalled_at = self._stalled_at()
        if stalled_at is not None and now >= stalled_at:
            return Verdict("renew", f"a response stalled for {MODEL_STALLED_SECONDS:.0f} s")
        self.responses.handle_timer(now)
        self.tools.handle_timer(now)
        return None

    def _stalled_at(self) -> float | None:
        waits = self.connected and self.responses.state is State.ACTIVE and not self.tools.running
        if not waits or self._ends_in_time or self._spoken:
            return None
        return self.event_at + MODEL_STALLED_SECONDS


def _has_image(message: ToModel) -> bool:
    parts = message.item.get("content", ()) if isinstance(message, ItemCreate) else ()
    return any(part["type"] == "input_image" for part in parts)


class _SessionChanges:
    """Changes of the session that wait for the server's answer, oldest first.

    A `session.updated` names no event: the server answers in order, so it means the oldest one.
    """

    def __init__(self, outbox: deque[ToModel], request: Callable[[SessionChanged], None]) -> None:
        self._outbox = outbox
        self._request = request
        self._number = 0
        self._waiting: list[str] = []

    def request(self, session: Mapping[str, Any]) -> str:
        self._number += 1
        change_id = f"agent_{self._number}"
        self._waiting.append(change_id)
        self._outbox.append(SessionUpdate(event_id=change_id, session=dict(session)))
        return change_id

    def taken(self) -> None:
        if self._waiting:
            self._request(SessionChanged(self._waiting.pop(0), None))

    def refused(self, failure: Failure) -> bool:
        """Handle an error. It may answer a change by its event id, or without one, by naming a part of the session."""
        change_id = failure.event_id
        if change_id is None and self._waiting and (failure.param or "").startswith("session"):
            change_id = self._waiting[0]
        if change_id is not None and change_id in self._waiting:
            self._waiting.remove(change_id)
            self._request(SessionChanged(change_id, failure.code or failure.type or "error"))
            return True
        return False

    def new_session(self) -> None:
        kept = [message for message in self._outbox if getattr(message, "event_id", None) not in self._waiting]
        self._outbox.clear()
        self._outbox.extend(kept)
        while self._waiting:
            self._request(SessionChanged(self._waiting.pop(0), "the connection was lost"))
