"""The call itself: two streams of messages meet here, and this table is its specification.

Sans-I/O. The shell feeds decoded messages with the time. It takes what there is to send (`take_for_caller`,
`take_for_model`), to do (`requests`) and to report (`reporter.events`), and calls `handle_timer` when it is due. Each
rule has its own file, named in the table; the bridge joins them, and `parts` builds them.

The floor is the first of these that holds: CLOSING (the call is about to end) · AGENT (our audio is unheard or unsent)
· THINKING (a response is requested or active, or a tool runs) · CALLER (speech is on) · OPEN.

| floor                    | input                          | what happens                                             |
|--------------------------|--------------------------------|----------------------------------------------------------|
| any                      | any event of the model         | its first sign gives its meaning (`signs`)               |
| any                      | any event of a question        | no sound, turn or answer: taken by `asking`              |
| any                      | response.created               | active; canceled at once if already interrupted, if      |
|                          |                                | speech is on and may interrupt, or if CLOSING and it is  |
|                          |                                | not our goodbye (`responses`, `conversation`)            |
| any                      | audio of a discarded response  | dropped (`responses`)                                    |
| any                      | audio, otherwise               | to the caller, marks in between (`playback`)             |
| any                      | mark of this generation        | heard up to there; complete items are forgotten          |
| any                      | the last mark is 5 s late      | counts as received (`playback`)                          |
| any                      | mark of an older generation    | ignored: a `clear` returned it                           |
| AGENT, THINKING          | speech that may interrupt      | a pause; then (`interruption`) either                    |
|                          |                                | clear, cancel, truncate what exists (`truncation`), or   |
|                          |                                | the agent goes on; the turn is void (`held_turns`)       |
| AGENT, THINKING, CLOSING | speech that may not            | noted; answered afterwards (in CLOSING not at all)       |
| CALLER, OPEN             | speech                         | noted (`dialogue`)                                       |
| any                      | a key                          | as speech; told after a pause, or gathered (`keys`)      |
| no response              | our own audio is next          | queued; speech stops it, unless protected (`clips`)      |
| any                      | turn committed                 | an answer is owed, by the server or on request           |
| any                      | function call complete, new id | the tool runs, once; in a held answer, when that counts  |
| any                      | tool returned                  | its output is posted at once; after the last: owed       |
| THINKING, neither speaks | a tool takes long              | its filler is said, once (`toolcalls`)                   |
| no response, turn over   | an answer is owed, not CLOSING | one response.create (`responses`)                        |
| any                      | response.done, the active one  | none; failed or empty: owed again; cut off: goes on      |
| speech on                | no media for 750 ms            | silence is inserted (`caller`)                           |
| any                      | no media for 15 s              | the line is lost (`caller`)                              |
| any                      | the session is lost            | the next one goes on where it stopped (`renewal`)        |
| any but CLOSING          | hand_over                      | this stream ends; what is open passes to the next        |
| an answer is due         | nothing is heard for too long  | a filler; apology, next session; the end (`silence`)     |
| OPEN for a second        | the session's time ends soon   | the next session takes over (`renewal`)                  |
| any but CLOSING          | mute                           | the agent stops, and asks for nothing (`responses`)      |
| any but CLOSING          | maximum duration, cost limit   | announced; later a goodbye (`deadlines`, `budget`)       |
| CLOSING                  | last mark, or unheard ms + 1 s | hang up, or transfer: all was heard (`closing`)          |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never

from phoneagent.bridge.closing import ClosedBy
from phoneagent.bridge.parts import Parts
from phoneagent.bridge.requests import EndCall, Ending, NoteStep, Renew, Verdict
from phoneagent.bridge.signs import PresumedDone
from phoneagent.bridge.steps import Pending, Transfer
from phoneagent.bridge.turn_signs import AnsweredTurn
from phoneagent.events import EndedBy
from phoneagent.protocol import carrier, realtime


class Bridge(Parts):
    """One media stream of a call, usually all of it; with a `past`, the call goes on.

    `now` is in seconds of any clock that does not go back.
    """

    # --- outputs --------------------------------------------------------------------------------------------------

    def take_for_caller(self, now: float, limit: int) -> list[carrier.ToCarrier]:
        """Return the next messages to write to the caller's socket; they count as written at `now`."""
        if self.stream_sid is None or self.ended is not None:
            return []
        spoken_until, messages = self.playback.spoken_until, self.playback.take(now, limit)
        if self.reporter.answers_since is not None and self.playback.spoken_until > spoken_until:
            self.reporter.audio_sent(now)
        return messages

    def take_for_model(self, now: float, limit: int) -> list[realtime.ToModel]:
        """Return the next events to write to the model's socket; they count as written at `now`."""
        if not self.conversation.connected or self.ended is not None:
            return []
        outbox = self.conversation.outbox
        events = [outbox.popleft() for _ in range(min(limit, len(outbox)))] if outbox else []
        return self.caller_audio.take(limit - len(events), events)

    # --- the caller's side ----------------------------------------------------------------------------------------

    def receive_from_caller(self, message: carrier.FromCarrier, now: float) -> bool:
        """Handle a message from the carrier. Return False if no timer moved and only audio for the model came."""
        if self.ended is not None:
            return True
        if isinstance(message, carrier.AudioIn):
            return self.caller_audio.frame(message.payload, message.at_ms, now)
        match message:
            case carrier.Played(mark=mark):
                over = self.playback.acknowledge(mark, now)
                if not over and not self.playback.idle:
                    return False  # the agent keeps speaking
                self.dialogue.items_over(over, now)
                self.move_on(now)
            case carrier.Key(digit=digit):
                self.dialogue.signed(now)
                if self.keys.press(digit, now) and self.floor().agents and self.interruptions.allowed():
                    self._interrupt(now)
                self.move_on(now)
            case carrier.Started(stream_sid=stream_sid):
                self.stream_sid = stream_sid
                for part in (self.clock, self.caller_audio, self.deadlines, self.closing):
                    part.start(now)
                if not self.conversation.connected:
                    self.renewal.started(now)
                self._begin(now)
            case carrier.Stopped():
                self.end(now, "caller", "the caller hung up")
            case _:
                assert_never(message)
        return True

    # --- the model's side -----------------------------------------------------------------------------------------

    def model_opened(self, session: Mapping[str, Any], now: float) -> None:
        """Note that a session is open, but not in use yet; `session` is the server's description of it."""
        self.budget.new_session(session, now)
        self.conversation.opened()

    def model_connected(self, now: float, lasts_seconds: float | None = None) -> None:
        """Note that the session is ready, for `lasts_seconds` (None if unknown): what waits goes to it."""
        self.conversation.connect(now)
        self.renewal.connect(now, lasts_seconds)
        self.caller_audio.replay(self.conversation.outbox)
        self.dialogue.replayed(now)
        self._begin(now)

    def model_away(self, now: float, reason: str) -> bool:
        """Note that there is no session. Return whether to look for another one; otherwise the call ends."""
        if self.ended is not None or self.closing.active or not self.renewal.worthwhile(now):
            self.model_lost(now, reason)
            return False
        if self.conversation.connected:
            self.reporter.trouble(f"model session lost (no. {self.renewal.losses}): {reason}", now)
            self._new_session(now)
            self.dialogue.items_over(self.playback.finish_items(), now)
            self.move_on(now)
        return True

    def model_lost(self, now: float, reason: str) -> None:
        """Note that no session is left: the caller hears an apology, and the call ends."""
        if self.ended is not None:
            return
        self.conversation.disconnect()
        self.renewal.stop()
        self.reporter.trouble(f"model session lost: {reason}", now)
        self.dialogue.lost()
        self.dialogue.items_over(self.playback.finish_items(), now)
        if not self.closing.active or (self.conversation.goodbye_due and self.closing.ended_by is not None):
            self.playback.queue(self._policy.apology)
            self.playback.finish()
            self._close(now, "error", reason)
        self.move_on(now)

    def receive_from_model(self, event: realtime.FromModel, now: float) -> bool:
        """Handle a server event. Return False if it only brought audio for the caller and moved no timer."""
        if not self.conversation.connected or self.ended is not None:
            return True
        if isinstance(event, realtime.AudioDelta) and (event.response_id, event.item_id) == self.signs.known:
            self._audio(event, now)
            return self.closing.active
        if self.conversation.questions.take(event):
            self.budget.beside(event, now)
        else:
            for each in self.signs.read(event, now):
                self._receive(each, now)
        self.move_on(now)
        return True

    def _receive(self, event: realtime.FromModel, now: float) -> None:
        if not self.conversation.connected or self.ended is not None:
            return
        if not isinstance(event, realtime.Unknown) or event.type.startswith("response."):
            self.conversation.alive(now)
        match event:
            case realtime.AudioDelta():
                self._audio(event, now)
            case realtime.TranscriptDelta() | realtime.TranscriptDone():
                if self.responses.output(event.response_id):
                    self.dialogue.words(event)
            case realtime.TextDelta(response_id=response_id):
                self.responses.text(response_id)  # the caller does not hear it
            case realtime.AudioDone(item_id=item_id):
                self.dialogue.items_over(self.playback.finish(item_id), now)
            case realtime.SpeechStarted(audio_start_ms=model_ms):
                again = self.dialogue.heard_before
                self.dialogue.speech_started(model_ms, now)
                self.interruptions.speech_started(now, again=again)
                self.move_on(now)  # its end may have come along with it
            case realtime.SpeechStopped(audio_end_ms=model_ms):
                self.dialogue.speech_stopped(model_ms, now)
                self.interruptions.speech_stopped(now)
            case realtime.Committed():
                self._committed(event, now)
            case realtime.InputTranscript(item_id=item_id, transcript=text):
                self.budget.transcribed(event, now)
                self.dialogue.understood(item_id, text, now)
                self.interruptions.transcribed(item_id, text)
            case realtime.InputTranscriptFailed(item_id=item_id):
                self.dialogue.not_understood(item_id)
                self.interruptions.transcribed(item_id, None)
            case realtime.ResponseCreated():
                self._response_created(event, now)
            case realtime.ResponseDone():
                self._response_done(event, now)
            case realtime.RateLimits(rate_limits=limits):
                self._act(self.conversation.receive(event, now), now)
                self.reporter.rate_limits(self.budget.model, limits, now)
            case realtime.Error(error=failure) if self.truncations.owns(failure):
                self._act(self.truncations.refused(failure), now)
            case realtime.Error(error=failure) if self.held.owns(failure):
                pass  # the item was gone, or this server cannot delete
            case (
                realtime.SessionUpdated()
                | realtime.Error()
                | realtime.ItemAdded()
                | realtime.ItemDone()
                | realtime.OutputItemDone()
            ):
                self._act(self.conversation.receive(event, now), now)
            case realtime.Unknown(type=kind) if kind in realtime.MCP_FAILURES:
                self.reporter.trouble(realtime.MCP_FAILURES[kind], now)
            case realtime.Unknown() | realtime.SessionCreated() | realtime.OutputItemAdded() | realtime.ArgumentsDone():
                pass  # sessions are created before use; `signs` has converted the others
            case _:
                assert_never(event)

    def _committed(self, event: realtime.Committed, now: float) -> None:
        self.dialogue.committed(event.item_id, now)
        if self._policy.manual_turns or isinstance(event, AnsweredTurn):
            self.budget.turn_committed()
        else:
            self.interruptions.turn_committed(event.item_id, now)

    def _audio(self, event: realtime.AudioDelta, now: float) -> None:
        if not (event.delta and self.conversation.output(event.response_id, now)):
            return
        self.renewal.was_heard()
        self.dialogue.answered(now)
        self.interruptions.agent_speaks(event.item_id)
        if not self.playback.queue(event.delta, event.item_id, event.content_index):
            self.reporter.trouble("model audio dropped: the caller's socket is not accepting it", now)

    def _response_created(self, event: realtime.ResponseCreated, now: float) -> None:
        self.dialogue.items_over(self.playback.finish_items(), now)
        self.budget.response_created()
        unwanted = self.interruptions.forbids_response(event.response, now)
        self.conversation.response_created(event.response, now, unwanted=unwanted)
        self.reporter.answer_begins()

    def _response_done(self, event: realtime.ResponseDone, now: float) -> None:
        self.budget.response_done(event.response, now)
        self.held.response_done(event.response)
        done = self.conversation.response_done(event.response, now)
        if done.ending is Ending.IGNORED:
            return
        if not isinstance(event, PresumedDone):
            self.dialogue.items_over(self.playback.finish_items(cut=done.ending is Ending.CUT), now)
        if done.trouble:
            self.reporter.trouble(done.trouble, now)
        self._act(done.verdict, now)
        if done.verdict is None and done.ending is Ending.INTERRUPTED and not self.closing.active:
            self._interrupt(now)

    # --- what user code asks for, besides `conversation` and `push_to_talk` -----------------------------------------

    def interrupt(self, now: float) -> None:
        """Stop the agent, as if the caller had begun to speak. Do nothing if it is not the agent's turn."""
        self.renewal.interrupted(self.responses)
        if self.floor().agents:
            self._interrupt(now)
            self.move_on(now)

    def mute(self, now: float, *, muted: bool) -> None:
        """Silence the agent and request nothing from the model, until it is unmuted.

        Do nothing if the call is about to end.
        """
        if self.closing.active or self.ended is not None or muted is self.responses.muted:
            return
        self.responses.mute(muted)
        if muted and self.floor().agents:
            self._interrupt(now, muted=True)
        if not muted:
            self.reporter.unmuted()
        self.move_on(now)

    def hang_up(self, now: float, *, goodbye: bool = True, reason: str = "the agent hung up") -> None:
        """End the call once everything was heard.

        With `goodbye`, the model is asked for one, unless the response that called the tool said something.
        """
        self._hang_up(now, reason, goodbye=goodbye and not self.conversation.parted)

    def transfer(self, now: float, step: Transfer, *, announce: bool | None = None) -> None:
        """Connect the call to another party once everything was heard. Of two transfers, the first counts.

        With `announce` the agent says so first. By default it does, unless the response that called the tool spoke.
        """
        if self.closing.active or self.ended is not None:
            return
        wanted = not self.conversation.parted if announce is None else announce
        self.closing.transfer(now, step, announce=wanted and self._can_speak)
        self.requests.append(NoteStep(self.closing.step(self.stream_sid or "")))
        self.move_on(now)

    def hand_over(self, now: float, reason: str) -> None:
        """End this media stream at once: the call goes on in another one. A call about to end just ends."""
        by, why = (self.closing.ended_by, self.closing.reason) if self.closing.active else (None, reason)
        self.end(now, by, why)

    def pending(self, now: float) -> Pending:
        """Return what is open, for the next media stream."""
        return self.renewal.left_open(
            turn_open=self.dialogue.turn_open(now),
            owes=self.responses.owes or self.floor().agents,
            words_lost=self.dialogue.transcript.lacks_text and self.playback.idle,
            unsettled=self.caller_audio.unsettled,
        )

    # --- rules ----------------------------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        """Once both sides are there, tell the model where the call is, and ask for what should be said first."""
        if self.stream_sid is not None and self.conversation.connected and not self.renewal.begun:
            self.renewal.begin(self.conversation, self.dialogue.transcript, self.clock, now)
            self.push_to_talk.commit_again()
        self.move_on(now)

    def _new_session(self, now: float) -> None:
        """Replace a lost session: each part drops what belonged to it, and keeps what the next one needs."""
        again, playing = self.caller_audio.again, self.playback.playing()
        self.conversation.new_session()
        self.renewal.new_session(
            owes=not again and self.responses.owed,  # else the caller is heard again
            words_lost=self.dialogue.transcript.lacks_text and not self.responses.spoke,
        )
        self.dialogue.new_session(playing, heard_again=again)
        self.interruptions.new_session(now)
        self.truncations.new_session(playing)
        self.caller_audio.new_session()

    def _act(self, verdict: Verdict | None, now: float) -> None:
        """Do what a part has found to be necessary."""
        if verdict is None or self.ended is not None:
            return
        match verdict.kind:
            case "trouble":
                self.reporter.trouble(verdict.text, now)
            case "renew" | "expired":
                if not self._policy.renews:
                    self.model_lost(now, verdict.text)
                elif self.model_away(now, verdict.text):
                    self.requests.append(Renew(elsewhere=verdict.kind == "renew"))
            case "lost":
                self.model_lost(now, verdict.text)
            case "take_over":
                self._new_session(now)
                self.requests.append(Renew())
            case "line_lost":
                self.end(now, "line", verdict.text)
            case "time_up" | "parted":
                self._hang_up(now, verdict.text, goodbye=verdict.kind == "time_up")
            case "closed":
                self.end(now, self.closing.ended_by, self.closing.reason)
            case _:
                assert_never(verdict.kind)

    def _interrupt(self, now: float, *, by_caller: bool = False, muted: bool = False) -> None:
        stopped_at = self.interruptions.stopped_at(now)
        for outcome in self.interruptions.interrupt(now, by_caller=by_caller, muted=muted):
            turn = self.dialogue.item_cut(outcome, stopped_at)
            self.truncations.truncate(outcome, turn.heard_text)

    def move_on(self, now: float) -> None:
        """Do what has become possible: interrupt, ask for the wanted response, or hang up."""
        if self.ended is not None or self.stream_sid is None:
            return
        if self.interruptions.decide(now, agents_turn=self.floor().agents):
            self._interrupt(now, by_caller=True)
        if self.keys.poll(now):
            self.budget.turn_committed()
        if self.conversation.connected:
            self.budget.poll(now, turns=self.held.counted)
        speech = self.dialogue.turn_open(now) or self.keys.typing
        self._act(self.sounds.poll(speech=speech), now)
        playing = not self.playback.idle or self.keys.gathering  # a tool's filler would come between the caller's keys
        self._act(self.conversation.move_on(now, speech=speech, playing=playing), now)
        self._act(self.closing.handle_timer(now), now)
        self._act(self.silence.poll(now), now)

    @property
    def _can_speak(self) -> bool:
        return self.conversation.connected and not self.responses.muted

    def _hang_up(self, now: float, reason: str, *, goodbye: bool) -> None:
        if self.closing.active or self.ended is not None:
            return
        self._close(now, "agent", reason, goodbye=goodbye and self._can_speak)
        self.move_on(now)

    def _close(self, now: float, by: ClosedBy, reason: str, *, goodbye: bool = False) -> None:
        self.closing.begin(now, by, reason, goodbye=goodbye)
        self.requests.append(NoteStep(self.closing.step(self.stream_sid or "")))

    def end(
        self, now: float, by: EndedBy | None = "line", reason: str = "the media socket closed without a stop"
    ) -> None:
        """End the call at once, or (`by` None) only this media stream. The first end counts."""
        if self.ended is not None:
            return
        self.keys.close(now)
        step = self.closing.step_after(by, self.stream_sid or "", self.pending(now))
        dead_air_ms = self.silence.close(now)
        self.dialogue.items_over(self.playback.cut(now), now)
        self.budget.close(now)
        self.conversation.end()
        self.ended = EndCall(by, reason, step)
        self.requests.append(self.ended)
        if by is None:
            self.reporter.handed_over(reason, now, dead_air_ms)
            return
        self.reporter.ended(by, reason, self.dialogue.end(), now, self.budget.total, dead_air_ms)

    # --- time -----------------------------------------------------------------------------------------------------

    def get_timer(self) -> float | None:
        """Return when `handle_timer` is due, in seconds of `now`; None for never."""
        if self.ended is not None or self.stream_sid is None:
            return None
        times = (part.get_timer() for part in (*self._timed, *self._timed_last, self.playback))
        return min((time for time in times if time is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Do what is due. Calling it too early changes nothing."""
        if self.stream_sid is None:
            return
        for event in self.signs.overdue(now):
            self._receive(event, now)
        self.dialogue.items_over(self.playback.presume_heard(now), now)
        for part in self._timed:
            if self.ended is None:
                self._act(part.handle_timer(now), now)
        self.move_on(now)
