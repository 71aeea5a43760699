"""The call itself: two streams of messages meet here, and every rule of the conversation is in this file.

Sans-I/O. The shell feeds decoded messages with the time, then takes what there is to send (`next_to_caller`,
`next_to_model`), to do (`requests`) and to tell (`events`), and calls `handle_timer` when `get_timer` is due.

The floor is derived, the first that holds: CLOSING (the call is about to end) · AGENT (audio of ours is unheard, or
unsent) · THINKING (a response is requested or active, or a tool runs) · CALLER (speech is on) · OPEN.

| floor                    | input                          | what happens                                             |
|--------------------------|--------------------------------|----------------------------------------------------------|
| any                      | response.created               | active; cancelled at once if interrupted meanwhile, if   |
|                          |                                | speech is on and may interrupt, or if CLOSING and it is  |
|                          |                                | not our goodbye                                          |
| any                      | audio of a discarded response  | dropped                                                  |
| any                      | audio, otherwise               | to the caller, marks in between                          |
| any                      | mark of this generation        | heard up to there; complete items are forgotten          |
| any                      | mark of an older generation    | ignored: a `clear` gave it back                          |
| AGENT, THINKING          | speech that may interrupt      | interrupt: clear, cancel, truncate what exists           |
| AGENT, THINKING, CLOSING | speech that may not            | noted; answered afterwards (in CLOSING not at all)       |
| CALLER, OPEN             | speech                         | noted                                                    |
| any                      | turn committed                 | an answer is owed, by the server or asked for            |
| any                      | function call complete, new id | the tool runs, once                                      |
| any                      | tool returned                  | its output is posted at once; after the last one: owed   |
| THINKING, nobody speaks  | a tool takes long              | its filler is said, once (`toolcalls`)                   |
| no response, turn over   | an answer is owed, not CLOSING | one response.create                                      |
| any                      | response.done, the active one  | none; failed or empty: owed again, once (`refusals`)     |
| speech on                | no media for 750 ms            | silence is made up (`listening`)                         |
| any                      | no media for 15 s              | the line is lost                                         |
| any but CLOSING          | hand_over                      | our part ends, and what is open is told to the next      |
| OPEN for a second        | the session's time ends soon   | the next session takes over (`sessions`)                 |
| CLOSING                  | last mark, or unheard ms + 1 s | hang up: the goodbye was heard                           |
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from phoneagent.bridge import prompts
from phoneagent.bridge.asked import Asked
from phoneagent.bridge.budget import Budget
from phoneagent.bridge.caller import CallerAudio, CallerTurn
from phoneagent.bridge.closing import Closing, step_after
from phoneagent.bridge.deadlines import Deadlines
from phoneagent.bridge.history import Past, Role
from phoneagent.bridge.interruption import Truncations
from phoneagent.bridge.model_errors import ModelErrors, Verdict
from phoneagent.bridge.playback import Outcome, Playback
from phoneagent.bridge.policy import (
    LINE_LOST_SECONDS,
    MODEL_STALLED_SECONDS,
    EndCall,
    Floor,
    NoteStep,
    Policy,
    Renew,
    Request,
    RunTool,
)
from phoneagent.bridge.renewal import ModelSessions
from phoneagent.bridge.reporting import Reporter
from phoneagent.bridge.responses import MAX_UNANSWERED, Ending, ResponseGate, State
from phoneagent.bridge.toolcalls import ToolCalls
from phoneagent.events import EndedBy, Event
from phoneagent.protocol import mediastream, realtime


class Bridge:
    """One media stream of a call, as a rule all of it: with a `past`, the call goes on.

    `now` is in seconds of any clock that does not go back.
    """

    def __init__(self, policy: Policy, *, call_sid: str = "", past: Past | None = None) -> None:
        self._policy = policy
        self._stream_sid: str | None = None
        self._end: EndCall | None = None
        self._greeting_items: set[str] = set()
        self._deadlines = Deadlines(
            policy.max_call_seconds, age_seconds=past.age_ms / 1000 if past is not None else 0.0
        )
        self._outbox: deque[realtime.ToModel] = deque()
        self._requests: deque[Request] = deque()
        self._closing = Closing()
        self.playback = Playback()
        self.caller_audio = CallerAudio()
        self.turn = CallerTurn()
        self.responses = ResponseGate(self._outbox)
        self.truncations = Truncations(self._outbox)
        self.model_errors = ModelErrors(self.responses, self.truncations, elsewhere=policy.elsewhere)
        self.asked = Asked(self._outbox, self.caller_audio, self.responses)
        self.tools = ToolCalls(self._outbox, past.tools if past is not None else ())
        self.reporter = Reporter(call_sid)
        self.renewal = ModelSessions(past, policy, self._outbox, self._requests, self)
        self.budget = Budget(policy, past, self.reporter, self.responses, self._deadlines)

    # --- outputs --------------------------------------------------------------------------------------------------

    @property
    def stream_sid(self) -> str | None:
        """The stream to address; None before `start`."""
        return self._stream_sid

    @property
    def ended(self) -> bool:
        """The call is over; nothing more will be sent."""
        return self._end is not None

    def next_to_caller(self, now: float) -> mediastream.ToCaller | None:
        """Return the next message to write to the caller's socket; it counts as written at `now`."""
        if self._stream_sid is None or self._end is not None:
            return None
        message = self.playback.pop(now)
        if isinstance(message, mediastream.Audio):
            self.reporter.audio_sent(now)
        return message

    def next_to_model(self) -> realtime.ToModel | None:
        """Return the next event to write to the model's socket."""
        if not self.renewal.connected or self._end is not None:
            return None
        return self._outbox.popleft() if self._outbox else self.caller_audio.pop()

    def requests(self) -> Iterator[Request]:
        """Take what is to be done."""
        while self._requests:
            yield self._requests.popleft()

    def events(self) -> Iterator[Event]:
        """Take what is to be told."""
        return self.reporter.take()

    def floor(self) -> Floor:
        """Tell who has the word."""
        if self._closing.active:
            return Floor.CLOSING
        if not self.playback.idle:
            return Floor.AGENT
        if self.responses.state is not State.NONE or self.tools.running:
            return Floor.THINKING
        return Floor.CALLER if self.turn.speaking else Floor.OPEN

    # --- the caller's side ----------------------------------------------------------------------------------------

    def receive_from_caller(self, message: mediastream.Message | mediastream.Ignored, now: float) -> None:
        """Take a message of Twilio."""
        if self._end is not None:
            return
        match message:
            case mediastream.Media(stream_sid=sid, media=media) if sid == self._stream_sid:
                self._deadlines.media_at = now
                self.caller_audio.frame(media.payload, int(media.timestamp), now)
            case mediastream.Mark(stream_sid=sid, mark=mark) if sid == self._stream_sid:
                self._heard(self.playback.acknowledge(mark.name, now), now)
                self._move_on(now)
            case mediastream.Dtmf(stream_sid=sid, dtmf=dtmf) if sid == self._stream_sid:
                self.reporter.key_pressed(dtmf.digit, now)
            case mediastream.Start() if self._stream_sid is None:
                self._stream_sid = message.stream_sid
                self._deadlines.start(now)
                self.renewal.started(now)
                self.reporter.start(now)
                self._begin(now)
            case mediastream.Stop(stream_sid=sid) if self._stream_sid is not None and sid in ("", self._stream_sid):
                self.caller_gone(now, "caller", "the caller hung up")
            case mediastream.Connected() | mediastream.Ignored():
                pass
            case _:
                where = "before `start`" if self._stream_sid is None else "of another stream, or twice"
                self.reporter.trouble(
                    f"Twilio message `{type(message).__name__.lower()}` ignored: it came {where}", now
                )

    def caller_gone(
        self, now: float, by: EndedBy = "line", reason: str = "the media socket closed without a stop"
    ) -> None:
        """The caller's side is over; without a `stop` before, the line broke."""
        self._finish(now, by, reason)

    # --- the model's side -----------------------------------------------------------------------------------------

    def model_connected(self, now: float, lasts: float | None = None) -> None:
        """A session is up and configured as asked: what was held goes to it. It ends after `lasts` seconds."""
        self.renewal.connect(now, lasts)
        self._deadlines.model_at = now
        self._begin(now)

    def model_away(self, now: float, reason: str) -> bool:
        """There is no session, or none any more. Returns whether to look for another one; else the call ends."""
        if self._end is not None or self._closing.active or not self.renewal.worthwhile(now):
            self.model_lost(now, reason)
            return False
        if self.renewal.connected:
            self.reporter.trouble(f"model session lost (no. {self.renewal.losses}): {reason}", now)
            self.renewal.lost()
            self._heard(self.playback.finish_items(), now)
        return True

    def _renew(self, now: float, reason: str, *, elsewhere: bool = True) -> None:
        """The session is of no use any more: have another one opened."""
        if not self._policy.renews:
            self.model_lost(now, reason)
        elif self.model_away(now, reason):
            self._requests.append(Renew(elsewhere))

    def model_lost(self, now: float, reason: str) -> None:
        """The session is gone or never came: the caller hears an apology, and the call ends."""
        self.renewal.connected = False
        if self._end is not None:
            return
        self.reporter.trouble(f"model session lost: {reason}", now)
        self.turn.forget()
        self.caller_audio.speech(False)
        self._heard(self.playback.finish_items(), now)
        if not self._closing.active or self._closing.goodbye_due:
            self.playback.queue(self._policy.apology)
            self.playback.finish()
            self._close(now, "error", reason)
        self._closing.goodbye_due = False
        self._move_on(now)

    def receive_from_model(self, event: realtime.FromModel, now: float) -> None:
        """Take a server event."""
        if not self.renewal.connected or self._end is not None:
            return
        self._deadlines.model_at = now
        self.budget.receive(event, now)
        match event:
            case realtime.AudioDelta():
                self._audio(event, now)
                return
            case realtime.AudioDone(item_id=item_id):
                self._heard(self.playback.finish(item_id), now)
            case realtime.TranscriptDelta() | realtime.TranscriptDone():
                if self.responses.accepts(event.response_id):
                    self.reporter.agent_says(event)
                return
            case realtime.SpeechStarted():
                self._speech_started(event, now)
            case realtime.SpeechStopped():
                self._speech_stopped(event, now)
            case realtime.Committed():
                self.turn.commit()
                self.reporter.committed(event.item_id, now)
                if not self._policy.manual_turns:
                    self.responses.turn_committed(now, server_answers=self._policy.server_answers)
            case realtime.InputTranscript(item_id=item_id, transcript=text):
                self.reporter.understood(item_id, text)
                if not (self.reporter.lacks_text or self.turn.open(now)):
                    self.caller_audio.settled()
            case realtime.InputTranscriptFailed(item_id=item_id):
                self.reporter.understood(item_id, "")
            case realtime.ItemAdded(item=item):
                self.responses.item_added(item)
            case realtime.ItemDone(item=item):
                self.tools.hosted(item, self.responses)
            case realtime.ResponseCreated(response=response):
                self._response_created(response, now)
            case realtime.OutputItemDone(item=item):
                self._function_call(item, now)
            case realtime.ResponseDone(response=response):
                self._response_done(response, now)
            case realtime.RateLimits(rate_limits=limits):
                self.model_errors.limits.update(limits, now)
                self.reporter.rate_limits(self.budget.model, limits, now)
            case realtime.Error(error=failure):
                self._act(self.model_errors.judge(failure, now), now)
        self._move_on(now)

    def _audio(self, event: realtime.AudioDelta, now: float) -> None:
        if not self.responses.accepts(event.response_id):
            return
        self.responses.heard_audio(event.response_id)
        self.renewal.was_heard()
        if not self.turn.open(now):
            self.caller_audio.settled()
        kind = self.responses.ask.kind if self.responses.ask is not None else "turn"
        if kind == "greeting":
            self._greeting_items.add(event.item_id)
        if kind == "goodbye" or self.responses.called:
            self._closing.goodbye_due = False  # these are the last words
        if not self.playback.queue(event.delta, event.item_id, event.content_index):
            self.reporter.trouble("audio of the model dropped: the caller's socket does not take it", now)

    def _speech_started(self, event: realtime.SpeechStarted, now: float) -> None:
        self.turn.begin()
        self.caller_audio.speech(True)
        self.reporter.speech_started(self.caller_audio.behind_ms(event.audio_start_ms), now)
        if self._may_interrupt() and self.floor() in (Floor.AGENT, Floor.THINKING):
            self._interrupt(now)

    def _speech_stopped(self, event: realtime.SpeechStopped, now: float) -> None:
        self.turn.stop(now)
        self.caller_audio.speech(False)
        self.reporter.speech_stopped(self.caller_audio.behind_ms(event.audio_end_ms), now)

    def _response_created(self, response: realtime.Response, now: float) -> None:
        unwanted = self.responses.created(response, now) or (self.turn.speaking and self._may_interrupt())
        self.reporter.answer_begins()
        if self._closing.active:
            unwanted = self.responses.ask is None or self.responses.ask.kind != "goodbye"
        if unwanted:
            self.responses.discard(now)

    def _response_done(self, response: realtime.Response, now: float) -> None:
        for item in response.output or ():
            if response.status == "completed":
                self._function_call(item, now)
        was = self.responses.ask
        ending = self.responses.done(response, now)
        if ending is Ending.IGNORED:
            return
        self._heard(self.playback.finish_items(), now)
        details = response.status_details
        failure = details.error if details is not None else None
        if failure is not None:
            why = failure.code or failure.type or "no reason given"
            self.reporter.trouble(f"response {response.status}: {why}", now)
        verdict = self.model_errors.judge_response(ending, failure, now)
        if verdict is not None:
            self._act(verdict, now)
        elif ending is Ending.INTERRUPTED and not self._closing.active:
            self._interrupt(now)
        elif was is not None and was.kind == "goodbye" and ending is not Ending.RETRIED:
            self._closing.goodbye_due = False

    def _function_call(self, item: realtime.Item, now: float) -> None:
        call = self.tools.begin(item, now)
        self.responses.called |= item.type in ("mcp_call", "mcp_approval_request")  # by the model's provider
        if call is None:
            return
        self.responses.called = True
        self.reporter.tool_called(call.call_id, call.name, call.arguments, now)
        if self.tools.too_many:
            self.tool_returned(call.call_id, '{"error": "too many tool calls in this call"}', now)
        else:
            self._requests.append(RunTool(call.call_id, call.name, call.arguments))

    def _act(self, verdict: Verdict | None, now: float) -> None:
        match verdict:
            case Verdict("lost", reason):
                self.model_lost(now, reason)
            case Verdict("renew" | "expired" as kind, reason):
                self._renew(now, reason, elsewhere=kind == "renew")
            case Verdict("trouble", what):
                self.reporter.trouble(what, now)

    # --- what the agent's code asks for ---------------------------------------------------------------------------

    def tool_returned(self, call_id: str, output: str, now: float) -> None:
        """Post a tool's output, or only tell it if the call is over. Unknown and repeated calls change nothing."""
        call = self.tools.end(call_id)
        if call is None:
            return
        self.reporter.tool_returned(call_id, call.name, output, call.since, now)
        if self._end is not None:
            return
        self.tools.post(call_id, output)
        self.responses.output_posted(call_id)
        self._move_on(now)

    def say(self, text: str, now: float) -> bool:
        """Let the agent say `text` as soon as it may. Returns False if the call is closing or too much is in line."""
        if self._closing.active or self._end is not None:
            return False
        accepted = self.responses.want(prompts.exactly(text))
        self._move_on(now)
        return accepted

    def add(self, text: str, role: Role, now: float) -> bool:
        """Add a message to the conversation (see `Asked.add`)."""
        if accepted := self._end is None and self.asked.add(text, role, now):
            self.reporter.message_added(role, text, now)
        return accepted

    def interrupt(self, now: float) -> None:
        """Stop the agent, as if the caller had begun to speak. Does nothing when it is not its turn."""
        self.renewal.interrupted()
        if self.floor() in (Floor.AGENT, Floor.THINKING):
            self._interrupt(now)
            self._move_on(now)

    def hang_up(self, now: float, *, goodbye: bool = True, reason: str = "the agent hung up") -> None:
        """End the call once everything was heard.

        With `goodbye`, the model is asked for one, unless the response that called the tool said something.
        """
        if self._closing.active or self._end is not None:
            return
        parting = self.responses.spoke and self.responses.called  # as when it said goodbye and called `hang_up`
        self._close(now, "agent", reason, goodbye=goodbye and self.renewal.connected and not parting)
        self._move_on(now)

    # --- going on elsewhere ---------------------------------------------------------------------------------------

    def quiet(self, now: float, *, heard_again: bool = False) -> bool:
        """Tell whether another session can go on without anybody noticing: the floor is open, and nothing is owed.

        Nor has the caller just begun to speak, unless the last second is `heard_again` there.
        """
        return (
            self.floor() is Floor.OPEN
            and self.renewal.begun
            and not (self.turn.open(now) or self.caller_audio.mid_turn)
            and not self.responses.owes
            and not self.reporter.awaits_text(now)
            and (heard_again or self.caller_audio.silent())
        )

    def hand_over(self, now: float, reason: str) -> None:
        """End our part of the call, at once: it goes on in another media stream. A call about to end just ends."""
        by, why = (self._closing.by, self._closing.reason) if self._closing.active else (None, reason)
        self._finish(now, by, why)

    # --- rules ----------------------------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        """Once both sides are there: ask for the greeting, or tell the model where the call was."""
        if self._stream_sid is None or not self.renewal.connected:
            return
        self.renewal.begin(now)
        self._move_on(now)

    def _may_interrupt(self) -> bool:
        if self._closing.active or not self._policy.barge_in:
            return False
        unheard = self.responses.waits_for("greeting") or any(map(self.playback.holds, self._greeting_items))
        return self._policy.greeting_interruptible or not unheard

    def _interrupt(self, now: float) -> None:
        self.responses.interrupt(now)
        for outcome in self.playback.cut(now):
            self.truncations.truncate(outcome, self.reporter.heard(outcome, now))
            self.reporter.barge_in(outcome, now, by_caller=self.turn.speaking)

    def _heard(self, outcomes: list[Outcome], now: float) -> None:
        for outcome in outcomes:
            self.reporter.heard(outcome, now)

    def _move_on(self, now: float) -> None:
        """Do what has become possible: ask for the response that is wanted, or hang up."""
        if self._end is not None or self._stream_sid is None:
            return
        if self._closing.goodbye_due and self.responses.state is State.NONE and not self.responses.waits_for("goodbye"):
            self.responses.want(prompts.goodbye())
        if self.renewal.connected:
            self.budget.poll(now)
            speech = self.turn.open(now)
            self.responses.poll(now, speech=speech, tools_running=self.tools.running)
            self.tools.poll(now, self.responses, quiet=not speech and self.floor() is Floor.THINKING)
            if self.responses.unanswered >= MAX_UNANSWERED and not self._closing.active:
                self._renew(now, "it answers no request for a response")
        if self._closing.active and now >= self._hang_up_at():
            self._finish(now, self._closing.by, self._closing.reason)

    def _close(self, now: float, by: EndedBy, reason: str, *, goodbye: bool = False) -> None:
        self._closing.begin(now, by, reason, goodbye=goodbye)
        if (step := step_after(self._closing.by, "nothing")) is not None:
            self._requests.append(NoteStep(step))
        self.responses.close()

    def _hang_up_at(self) -> float:
        coming = self.renewal.connected and (self._closing.goodbye_due or self.responses.speaking)
        return self._closing.due(self.playback, self._deadlines, coming=coming)

    def _finish(self, now: float, by: EndedBy | None, reason: str) -> None:
        """End the call at once, or only our part of it."""
        if self._end is not None:
            return
        closed_by = self._closing.by if self._closing.active and by in (None, "line") else by
        waits = self.floor() in (Floor.AGENT, Floor.THINKING)
        step = step_after(closed_by, self.renewal.pending(now, waits=waits))
        self._heard(self.playback.cut(now), now)
        self.budget.close(now)
        self._end = EndCall(by, reason, step)
        self._requests.append(self._end)
        if by is None:
            self.reporter.hand_over(reason, now)
        else:
            self.reporter.end(by, reason, now, self.budget.total)

    # --- time -----------------------------------------------------------------------------------------------------

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due, in seconds of `now`; None for never."""
        if self._end is not None or self._stream_sid is None:
            return None
        times = [self._deadlines.line_lost_at, self.caller_audio.get_timer(), self.renewal.get_timer()]
        if self.renewal.connected:
            times += [self.responses.get_timer(), self.turn.get_timer(), self.tools.get_timer()]
        if self._closing.active:
            times.append(self._hang_up_at())
        else:
            times += [self._deadlines.longest_at if self.renewal.begun else None, self._stalled_at()]
        return min(time for time in times if time is not None)

    def _stalled_at(self) -> float | None:
        if not self.renewal.connected or self.tools.running or self.responses.state is not State.ACTIVE:
            return None
        return self._deadlines.stalled_at(self.playback.dry_at)

    def handle_timer(self, now: float) -> None:
        """Do what time alone brings about. Calling it too early changes nothing."""
        if self._end is not None or self._stream_sid is None:
            return
        if now >= self._deadlines.line_lost_at:
            self._finish(now, "line", f"no audio came from the caller's line for {LINE_LOST_SECONDS:.0f} s")
            return
        stalled_at = self._stalled_at()
        if not self._closing.active and stalled_at is not None and now >= stalled_at:
            self._renew(now, f"nothing came of a response for {MODEL_STALLED_SECONDS:.0f} s")
        if self.renewal.begun and now >= self._deadlines.longest_at:
            if self._deadlines.announced:
                self.hang_up(now, reason=self._deadlines.reason)
            else:
                self._deadlines.announced = True
                self.responses.want(prompts.announcement())
        self.renewal.handle_timer(now, quiet=self.quiet(now, heard_again=True))
        self.turn.handle_timer(now)
        self.caller_audio.handle_timer(now)
        self.responses.handle_timer(now)
        self._move_on(now)
