"""Random calls, 20 ms at a time, with a server that keeps a conversation: the manners of the agent, whatever comes.

Each rule is a name in `Scene.check…`; a failing seed is replayed with `Scene(seed).run()`.
"""

from __future__ import annotations

import base64
import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest

from phoneagent.bridge.keys import Gather
from phoneagent.bridge.policy import Silence
from phoneagent.bridge.prompts import Sound
from phoneagent.bridge.requests import RunTool
from phoneagent.protocol import carrier, realtime
from phoneagent.protocol.audio import audioop, decode_ulaw, encode_ulaw
from tests.bridge.rig import Rig
from tests.bridge.test_interruption import voice

FILLER = base64.b64encode(voice(400, seed=5)).decode()
CLIP = base64.b64encode(voice(1500, seed=6)).decode()
WINDOW = 16
WILD = ["started", "stopped", "committed", "words?", "failed?", "done?", "deleted?", "audio?"]
KINDS = ["soft", "noise", "mhm", "words", "long"]
QUIET_FRAME = base64.b64encode(b"\xff" * 160).decode()


@cache
def callers_voice() -> bytes:
    return voice(12_000, seed=77)


@cache
def soft_voice() -> bytes:
    return encode_ulaw(audioop.mul(decode_ulaw(callers_voice()), 2, 0.06))


@cache
def agents_voice() -> bytes:
    return voice(120_000, seed=1)


@dataclass
class Spoken:
    """An item of the agent, as the server made it and as the phone played it."""

    id: str
    protected: bool
    audio: bytearray = field(default_factory=bytearray)
    played: list[tuple[int, int, float]] = field(default_factory=list)  # from, to, when the last byte was played
    deleted: bool = False
    truncated: int | None = None
    cut: bool = False

    @property
    def heard(self) -> int:
        return max((to for _, to, _ in self.played), default=0)


@dataclass
class Answer:
    id: str
    at: float
    ours: str | None
    knows: int  # how many things to be answered it knows of
    spoken: list[Spoken] = field(default_factory=list)
    done: bool = False
    cancelled: bool = False


@dataclass
class Turn:
    id: str
    kind: str
    began: float
    committed: float
    started: bool = False
    frames: dict[str, int] = field(default_factory=dict)
    deleted: bool = False


class Scene(Rig):
    def __init__(self, seed: int, **fixed: Any) -> None:
        self.seed = seed
        self.chance = chance = random.Random(seed)
        fixed_wild = fixed.pop("wild", None)
        self.latency = fixed.pop("latency", chance.choice([0.0, 0.02, 0.08]))
        self.answers = fixed.pop("server_answers", chance.random() < 0.6)
        self.recognizer = fixed.pop("recognizer", chance.choice(["good", "good", "slow", "broken", "none"]))
        self.can_delete = fixed.pop("can_delete", chance.random() < 0.8)
        self.metadata = fixed.pop("metadata", chance.random() < 0.8)
        policy: dict[str, Any] = {
            "min_speech_ms": chance.choice([500, 500, 500, 0, 1200]),
            "words_ms": 0 if self.recognizer == "none" else 1200,
            "barge_in": chance.random() < 0.9,
            "server_answers": self.answers,
            "greeting": chance.choice([None, "Hello there!"]),
            "renews": chance.random() < 0.5,
            "silence": Silence(idle_seconds=0, closing_silence_seconds=0, filler=FILLER, apology=CLIP),
            "apology": CLIP,
        }
        policy.update(fixed)
        self.may = policy["barge_in"]
        if not self.may:
            policy["server_answers"] = self.answers = False
        self.min_speech_ms = policy["min_speech_ms"]
        self._heap: list[tuple[float, int, Callable[[], Any]]] = []
        self._count, self._ids = itertools.count(), itertools.count(1)
        self._seen_caller = self._seen_model = self._seen_asked = 0
        self._phone: list[Any] = []
        self.items: dict[str, Spoken] = {}
        self.windows: dict[bytes, tuple[str, int]] = {}
        self.responses: list[Answer] = []
        self.turns: list[Turn] = []
        self.active: Answer | None = None
        self.alive = True
        self.session = 0
        self.sound_until = 0.0
        self.voice: list[tuple[bytes, str, bool]] = []  # frames the caller is to send
        self.last_sound = 0.0
        self.loud_since: float | None = None
        self.server_speech = False
        self.to_answer = 0
        self.log: list[str] = []
        self.agent_playing_since: float | None = None
        self.paused_since: float | None = None
        self.ms = 0
        self.secrets: list[str] = []
        self.gathering: Gather | None = None
        self.hung_up = False
        self.reported_at = self.vad_heard_at = 0.0
        self.vad: Turn | None = None
        self.onset = chance.choice([0.06, 0.1, 0.25])
        self.hangover = chance.choice([0.2, 0.5, 0.5, 0.7])
        self.endless = False
        self.kinds: dict[str, str | None] = {}
        self.allowed_at = 0.0
        self.agent_heard_at = -1.0
        self.tools_running = self.used = 0
        self.played_to = 100.0
        self.wild = fixed_wild if fixed_wild is not None else chance.random() < 0.2
        self.lost_marks = 0.3 if self.wild and chance.random() < 0.5 else 0
        self.hole_until = 0.0
        super().__init__(start=False, connect=False, **policy)

    # --- time ---

    def after(self, seconds: float, what: Callable[[], Any]) -> None:
        heapq.heappush(self._heap, (self.now + seconds, next(self._count), what))

    def note(self, text: str) -> None:
        self.log.append(f"{self.now - 100:7.2f} {text}")

    def until(self, then: float) -> None:
        while self._heap and self._heap[0][0] <= then:
            at, _, what = heapq.heappop(self._heap)
            self.wait(max(0.0, at - self.now))
            what()
        self.wait(max(0.0, then - self.now))

    def flush(self) -> None:
        super().flush()
        while self._seen_caller < len(self.to_caller):
            message = self.to_caller[self._seen_caller]
            self._seen_caller += 1
            self._to_phone(message)
        while self._seen_model < len(self.to_model):
            message = self.to_model[self._seen_model]
            self._seen_model += 1
            self._to_server(message)
        while self._seen_asked < len(self.asked):
            request = self.asked[self._seen_asked]
            self._seen_asked += 1
            if isinstance(request, RunTool):
                self.tools_running += 1
                self.after(self.chance.choice([0.05, 0.5, 4.0]), lambda each=request: self._tool(each))
            elif type(request).__name__ == "Renew":
                self._lose()
                self.after(0.5, self._again)

    def run_for(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.02)):
            if self.ended:
                return
            self.until(self.now + 0.02)
            self._play()
            if self.voice:
                frame, kind, unnoticed = self.voice.pop(0)
                self.last_sound = self.now
                if kind not in ("words", "long"):
                    self.loud_since = None
                elif self.loud_since is None:
                    self.loud_since = self.now
                payload = base64.b64encode(frame).decode()
                self.kinds[payload] = None if unnoticed else kind
            else:
                self.loud_since = None
                payload = QUIET_FRAME
            if self.now >= self.hole_until:
                self.caller(carrier.AudioIn(payload, self.ms))
            self.ms += 20
            self.check_tick()

    # --- the phone ---

    def _to_phone(self, message: Any) -> None:
        match message:
            case carrier.Audio(payload=payload):
                audio = base64.b64decode(payload)
                self._phone.append([audio, *self._whose(audio)])
                if payload[:40] == FILLER[:40]:
                    self.check_filler()
            case carrier.SendMark(name=name):
                self._phone.append(name)
            case carrier.Clear():
                self.note("clear")
                self._play()
                for each in self._phone:
                    if isinstance(each, str):
                        self.after(self.latency, lambda name=each: self.mark(name))
                self._phone.clear()

    def _whose(self, audio: bytes) -> tuple[str, int]:
        for at in range(0, max(1, len(audio) - WINDOW), 1):
            found = self.windows.get(audio[at : at + WINDOW])
            if found is not None:
                item, offset = found
                whole = bytes(self.items[item].audio)
                if whole[offset - at : offset - at + len(audio)] == audio:
                    return item, offset - at
        return "", 0

    def _play(self) -> None:
        size = round((self.now - self.played_to) * 8000)
        self.played_to += size / 8000
        who = None
        while self._phone and (size or isinstance(self._phone[0], str)):
            first = self._phone[0]
            if isinstance(first, str):
                self._phone.pop(0)
                if self.chance.random() >= self.lost_marks:
                    self.after(self.latency, lambda name=first: self.mark(name))
                continue
            audio, item, at = first
            take = min(size, len(audio))
            if item:
                who = item
                played = self.items[item].played
                if played and played[-1][1] == at:
                    played[-1] = (played[-1][0], at + take, self.now)
                else:
                    played.append((at, at + take, self.now))
                    self.check_bytes_once(self.items[item])
            first[0], first[2] = audio[take:], at + take
            if not first[0]:
                self._phone.pop(0)
            size -= take
        if who is not None:
            self.agent_heard_at = self.now
            self.check_not_spoken_over(self.items[who])

    # --- the server ---

    def tell(self, delay: float, *events: Any, when: Callable[[], bool] = lambda: True) -> None:
        session = self.session

        def now() -> None:
            if session == self.session and self.alive and when():
                for event in events:
                    self.model(event)

        self.after(delay, now)

    def _to_server(self, event: Any) -> None:
        match event:
            case realtime.ResponseCreate(response=response):
                metadata = (response or {}).get("metadata")
                self.note(f"<- create {self.prompts[-1][:30] if self.prompts else ''} {response}"[:110])
                self.after(0.03, lambda s=self.session: s == self.session and self._create(metadata))
            case realtime.ResponseCancel(response_id=id):
                self.note(f"<- cancel {id}")
                self.after(0.03, lambda s=self.session: s == self.session and self._cancel(id))
            case realtime.AudioAppend(audio=audio):
                if self.alive:
                    self._vad(self.kinds.get(audio))
            case realtime.ItemTruncate(item_id=id, audio_end_ms=ms):
                self.note(f"<- truncate {id} {ms}")
                self.check_truncation(id, ms)
            case realtime.ItemDelete(item_id=id):
                self.note(f"<- delete {id}")
                self._delete(id)
            case realtime.ItemCreate(item=item):
                self.note(f"<- item {str(item)[:90]}")
                if item["type"] == "function_call_output":
                    self.to_answer += 1
                    self.tell(0.03, realtime.ItemAdded(item=realtime.Item(type=item["type"], call_id=item["call_id"])))
            case _:
                pass

    def _delete(self, id: str) -> None:
        for each in (*self.turns, *self.items.values()):
            if each.id == id:
                assert not each.deleted, f"deleted twice: {id}"
                each.deleted = True
        if not self.can_delete:
            event_id = f"delete_{sum(isinstance(e, realtime.ItemDelete) for e in self.to_model)}"
            self.tell(0.05, realtime.Error(error=realtime.Failure(code="unknown_event", event_id=event_id)))

    def _create(self, metadata: Any) -> None:
        if not self.alive:
            return
        if self.active is not None:
            event_id = f"create_{next(iter(metadata.values()))}" if metadata else None
            self.note("refused: active")
            self.tell(
                0.0,
                realtime.Error(
                    error=realtime.Failure(code="conversation_already_has_active_response", event_id=event_id)
                ),
            )
            return
        self._respond(metadata)

    def _respond(self, metadata: Any = None) -> None:
        if self.active is not None or not self.alive:
            return
        id = f"r{len(self.responses) + 1}"
        answer = Answer(id, self.now, str(metadata) if metadata else None, self.to_answer)
        self.responses.append(answer)
        self.active = answer
        self.note(f"-> created {id} {metadata}")
        plan = self.chance.choice(["speak"] * 10 + ["two", "tool", "speaktool", "empty", "failed", "slow"])
        echoed = metadata if self.metadata else None
        self.model(realtime.ResponseCreated(response=realtime.Response(id=id, status="in_progress", metadata=echoed)))
        delay = 0.05
        if plan in ("speak", "two", "speaktool", "slow"):
            for _ in range(2 if plan == "two" else 1):
                delay = self._speak(answer, delay, pace=0.21 if plan == "slow" else 0.02)
        if plan in ("tool", "speaktool"):
            delay += 0.05
            call = f"c{id}"
            item = realtime.Item(
                id=f"f{id}",
                type="function_call",
                status="completed",
                call_id=call,
                name="look_up",
                arguments='{"a": 1}',
            )
            self.tell(delay, realtime.OutputItemDone(item=item, response_id=id), when=lambda: not answer.done)
        status = "failed" if plan == "failed" else "completed"
        self.after(delay + 0.03, lambda s=self.session: s == self.session and self._done(answer, status))

    def _speak(self, answer: Answer, delay: float, pace: float) -> float:
        id = f"i{len(self.items) + 1}"
        spoken = Spoken(id, protected=False)
        self.items[id] = spoken
        answer.spoken.append(spoken)
        size = self.chance.choice([300, 1200, 3000, 3000, 7000]) * 8
        if self.used + size > len(agents_voice()):
            self.used = 0
        whole = agents_voice()[self.used : self.used + size]
        self.used += size
        for n in range(0, size, 1600):
            part = whole[n : n + 1600]

            def send(part: bytes = part, n: int = n) -> None:
                if answer.done:
                    return
                spoken.audio += part
                for k in range(max(0, n - WINDOW), len(spoken.audio) - WINDOW):
                    self.windows[bytes(spoken.audio[k : k + WINDOW])] = (id, k)
                self.model(
                    realtime.AudioDelta(response_id=answer.id, item_id=id, delta=base64.b64encode(part).decode())
                )

            self.after(delay, lambda s=self.session, f=send: s == self.session and self.alive and f())
            delay += pace
        self.tell(delay, realtime.AudioDone(response_id=answer.id, item_id=id), when=lambda: not answer.done)
        return delay

    def _done(self, answer: Answer, status: str) -> None:
        if answer.done or not self.alive:
            return
        answer.done = True
        if self.active is answer:
            self.active = None
        self.note(f"-> done {answer.id} {status}")
        output = [realtime.Item(id=each.id, type="message", role="assistant") for each in answer.spoken if each.audio]
        self.model(realtime.ResponseDone(response=realtime.Response(id=answer.id, status=status, output=output)))

    def _cancel(self, id: str | None) -> None:
        if self.active is None or (id and self.active.id != id):
            self.tell(0.0, realtime.Error(error=realtime.Failure(code="response_cancel_not_active")))
            return
        self.active.cancelled = True
        self._done(self.active, "cancelled")

    def _tool(self, request: RunTool) -> None:
        self.tools_running -= 1
        if self.ended is None:
            self.returns(request.call.call_id if hasattr(request, "call") else request.call_id, added=False)

    def _lose(self) -> None:
        self.alive = False
        self.session += 1
        self.active = self.vad = None
        self.server_speech = False

    def _again(self) -> None:
        if self.ended is None and not self.alive:
            self.note("connected again")
            self.alive = True
            self.connect()

    # --- what the caller does ---

    def makes(self, kind: str, ms: int, *, soft: bool = False) -> None:
        """A sound, and what the server makes of it."""
        chance = self.chance
        source = soft_voice() if soft else callers_voice()
        at = chance.randrange(0, len(source) - ms * 8 - 8)
        unnoticed = kind == "noise" and chance.random() < 0.1
        self.voice.extend((source[n : n + 160], kind, unnoticed) for n in range(at, at + ms * 8, 160))
        self.note(f"caller: {kind} {ms}{' soft' if soft else ''}{' unnoticed' if unnoticed else ''}")

    def _vad(self, kind: str | None) -> None:
        """The server's ear: `kind` is what the caller's frame sounds like, None for silence."""
        if kind is not None:
            self.vad_heard_at = self.now
            if self.vad is None:
                turn = self.vad = Turn(f"u{next(self._ids)}", "soft", self.now, 0.0)
                self.turns.append(turn)
                self.after(self.onset, lambda s=self.session: s == self.session and self.alive and self._started(turn))
            self.vad.frames[kind] = self.vad.frames.get(kind, 0) + 1
            if self.vad.frames[kind] < {"long": 60, "words": 12}.get(kind, 0):
                kind = "noise"
            if KINDS.index(kind) > KINDS.index(self.vad.kind):
                self.vad.kind = kind
        elif self.vad is not None and self.now - self.vad_heard_at >= self.hangover and not self.endless:
            turn, self.vad = self.vad, None
            if self.alive and turn.started:
                self._committed(turn)
            else:
                self.turns.remove(turn)

    def _started(self, turn: Turn) -> None:
        self.note(f"-> speech_started {turn.id}")
        turn.started = True
        self.reported_at = self.now
        self.server_speech = True
        self.model(realtime.SpeechStarted(item_id=turn.id))

    def _committed(self, turn: Turn) -> None:
        chance = self.chance
        self.note(f"-> committed {turn.id} {turn.kind}")
        self.server_speech = False
        turn.committed = self.now
        if turn.kind in ("words", "long"):
            self.to_answer += 1
        self.model(realtime.SpeechStopped(item_id=turn.id), realtime.Committed(item_id=turn.id))
        if self.answers:
            self.after(chance.choice([0.0, 0.0, 0.3]), lambda s=self.session: s == self.session and self._auto())
        self._transcribe(turn)

    def _auto(self) -> None:
        if not self.server_speech:
            self._respond()

    def _transcribe(self, turn: Turn) -> None:
        chance = self.chance
        text = {
            "soft": chance.choice(["", "I told you so."]),
            "noise": chance.choice(["", "", "."]),
            "mhm": chance.choice(["Mhm.", "Yes.", "Okay."]),
            "words": chance.choice(["Stop!", "How much is it?", "No, wait."]),
            "long": "I would like to book a table.",
        }[turn.kind]
        delay = {
            "good": chance.uniform(0.1, 0.6),
            "slow": chance.uniform(0.8, 3),
            "broken": chance.uniform(0.1, 4),
            "none": None,
        }[self.recognizer]
        if delay is None or (self.recognizer == "broken" and chance.random() < 0.4):
            return
        if self.recognizer == "broken" and chance.random() < 0.5:
            self.tell(delay, realtime.InputTranscriptFailed(item_id=turn.id))
        else:
            self.tell(delay, realtime.InputTranscript(item_id=turn.id, transcript=text))

    def step(self) -> None:
        chance = self.chance
        what = chance.choices(
            [
                "noise",
                "mhm",
                "words",
                "long",
                "soft",
                "key",
                "say",
                "say!",
                "clip",
                "clip!",
                "gather",
                "interrupt",
                "lose",
                "hole",
                "stall",
                "wait",
                *(WILD if self.wild else ()),
            ],
            [6, 5, 5, 4, 2, 1, 1, 1, 1, 0.5, 0.7, 0.5, 0.4, 0.3, 0.5, 5, *([2] * len(WILD) if self.wild else ())],
        )[0]
        if self.voice and what in ("noise", "mhm", "words", "long", "soft"):
            return
        match what:
            case "noise":
                self.makes("noise", chance.choice([40, 100, 200, 300]))
            case "mhm":
                self.makes("mhm", chance.choice([200, 300, 400]))
            case "words":
                self.makes("words", chance.choice([300, 500, 700]))
            case "long":
                self.makes("long", chance.choice([1800, 2500, 4000]))
            case "soft":
                self.makes("soft", chance.choice([400, 1500]), soft=True)
            case "key":
                self.note("key")
                self.key(chance.choice("0123456789*#"))
            case "say" | "say!":
                self.note(what)
                self.bridge.conversation.say("One moment.", interruptible=what == "say")
                self.bridge.move_on(self.now)
                self.flush()
            case "clip" | "clip!":
                self.note(what)
                self.bridge.sounds.play(Sound(CLIP, "Recorded.", "A recording.", protected=what == "clip!"))
                self.bridge.move_on(self.now)
                self.flush()
            case "gather":
                self._gather()
            case "interrupt":
                self.note("interrupt()")
                self.interrupt()
            case "lose":
                self.note("session lost")
                self._lose()
                if self.bridge.model_away(self.now, "gone"):
                    self.after(chance.choice([0.1, 1.0, 2.0]), self._again)
                self.flush()
            case "stall":
                self.note("the caller's socket takes nothing")
                self.stalled = True
                self.after(chance.choice([0.3, 1.0]), self._unstall)
            case "hole":
                self.hole_until = self.now + chance.choice([0.5, 2.0])
            case "started":
                self.note("stray started")
                self.model(realtime.SpeechStarted(item_id="x"))
            case "stopped":
                self.note("stray stopped")
                self.model(realtime.SpeechStopped(item_id="x"))
            case "committed":
                self.note("stray committed")
                self.model(realtime.Committed(item_id=f"x{len(self.log)}"))
            case "words?":
                self.note("stray words")
                self.model(realtime.InputTranscript(item_id=chance.choice(["x", "u1", "u2", "i1"]), transcript="Stop!"))
            case "failed?":
                self.model(realtime.InputTranscriptFailed(item_id=chance.choice(["x", "u1", "u3"])))
            case "done?":
                self.note("stray done")
                self.model(
                    realtime.ResponseDone(
                        response=realtime.Response(id=chance.choice(["r1", "rx"]), status="completed")
                    )
                )
            case "deleted?":
                self.model(
                    realtime.Error(error=realtime.Failure(code="item_delete_invalid_item_id", event_id="delete_1"))
                )
            case "audio?":
                self.model(realtime.AudioDone(response_id="rx", item_id="ix"))
            case _:
                pass

    def _unstall(self) -> None:
        self.stalled = False
        self.flush()

    def _gather(self) -> None:
        if self.gathering is not None:
            return
        pin = "".join(self.chance.choices("0123456789", k=7))
        asked = Gather(7, 5, "#", lambda: None)
        if not self.bridge.keys.begin(asked, self.now):
            return
        self.note(f"gather {pin}")
        self.gathering = asked
        self.secrets.append(pin)
        self.bridge.move_on(self.now)
        self.flush()
        for n, digit in enumerate(pin):
            self.after(0.5 + 0.3 * n, lambda d=digit: self.ended or self.key(d))
        self.after(6, self._gathered)

    def _gathered(self) -> None:
        asked, self.gathering = self.gathering, None
        if asked is not None and not self.ended:
            self.bridge.keys.give_up(asked)
            self.bridge.move_on(self.now)
            self.flush()

    def run(self) -> Scene:
        self.start()
        self.connect()
        self.run_for(self.chance.uniform(0, 2))
        for _ in range(14):
            if self.ended:
                break
            self.step()
            self.run_for(self.chance.choice([0.04, 0.2, 0.5, 1.0, 2.0, 4.0]))
        self.run_for(40)
        if not self.ended:
            self.check_rest()
        self.hang_up(goodbye=self.chance.random() < 0.5)
        self.run_for(40)
        assert self.ended is not None, "the call ends"
        self.check_secrets()
        return self

    # --- the rules ---

    def check_tick(self) -> None:
        if not self.bridge.interruptions.allowed():
            self.allowed_at = self.now
        paused = self.bridge.playback.paused_at is not None
        if not paused:
            self.paused_since = None
        elif self.paused_since is None:
            self.paused_since = self.now
        elif self.bridge.playback.unsent_ms and self.now - max(self.paused_since, self.last_sound) > 4.3:
            raise AssertionError("a pause ends within about four seconds of the last sound")

    def check_not_spoken_over(self, spoken: Spoken) -> None:
        if (
            self.loud_since is not None
            and self.server_speech
            and self.may
            and self.now - max(self.loud_since, self.reported_at, self.allowed_at) > 1.6
            and self.bridge.interruptions.allowed()
            and not self.bridge.closing.active
        ):
            raise AssertionError(f"the agent speaks over the caller: {spoken.id}")

    def check_filler(self) -> None:
        self.note("filler")
        assert self.now - self.agent_heard_at > 2.2, "a filler in the middle of the agent's voice"

    def check_answered_once(self) -> None:
        """A turn with nothing else around it has one answer."""
        last = max((turn.committed for turn in self.turns), default=0)
        real = [turn for turn in self.turns if turn.committed == last and turn.kind in ("words", "long")]
        marks = ("say", "clip", "key", "gather", "lost", "item", "failed", "stray", "noise", "mhm", "soft", "refused")
        busy = any(float(line.split()[0]) > last - 108 and any(w in line for w in marks) for line in self.log)
        if real and not busy and self.recognizer in ("good", "none"):
            heard = [each for each in self.responses if each.at >= last - 0.001 and any(i.heard for i in each.spoken)]
            assert len(heard) <= 1, f"{real[0].id} is answered {len(heard)} times"

    def check_bytes_once(self, spoken: Spoken) -> None:
        if len(spoken.played) == 1:
            assert spoken.played[0][0] == 0, f"the beginning of {spoken.id} is lost: {spoken.played}"
            return
        before, after = spoken.played[-2][1], spoken.played[-1][0]
        allowed = 3 + round(
            8000 * (self.latency + (1.6 if self.lost_marks or "takes nothing" in " ".join(self.log) else 0.16))
        )
        assert after <= before + 3, f"lost audio of {spoken.id}: {spoken.played}"
        assert after >= before - allowed, f"doubled audio of {spoken.id}: {spoken.played}"

    def check_truncation(self, id: str, ms: int) -> None:
        if id not in self.items:
            return
        self._play()
        spoken = self.items[id]
        assert not spoken.deleted, f"truncates a deleted item {id}"
        assert ms * 8 <= len(spoken.audio), f"truncates more than there is: {id}"
        heard = spoken.heard / 8
        assert ms <= heard + 20, f"{id}: told {ms}, heard {heard}"
        assert self.lost_marks or "takes nothing" in " ".join(self.log) or ms >= heard - 150 - 1000 * self.latency, (
            f"{id}: told {ms}, heard {heard}"
        )
        spoken.truncated = ms

    def check_rest(self) -> None:
        floor = self.bridge.floor()
        if floor.name == "CLOSING":
            return
        if self.wild:
            return
        self.check_answered_once()
        if not self.server_speech:
            assert floor.name == "OPEN", f"at rest the floor is {floor}"
        real = [turn for turn in self.turns if turn.kind == "long" and turn.committed]
        if real and not any("lost" in line or "interrupt()" in line for line in self.log):
            last = max(real, key=lambda turn: turn.committed)
            assert not last.deleted, f"{last.id} is a real turn, and deleted"
            later = [each for each in self.responses if each.at >= last.committed - 0.001]
            heard = [each for each in later if any(item.heard for item in each.spoken)]
            if not self.bridge.budget.total if False else True:
                assert heard, f"the turn {last.id} has no answer"

    def check_secrets(self) -> None:
        seen = "".join(
            map(repr, (*self.told, *self.asked, *(m for m in self.to_model if not isinstance(m, realtime.AudioAppend))))
        )
        for secret in self.secrets:
            for n in range(len(secret) - 4):
                assert secret[n : n + 5] not in seen, f"gathered digits seen: {secret}"


FOUND = [2047, 2066, 3055, 2004, 3100]
"""Seeds that found something: a cough's answer without its beginning (2), a timer that spun, a question whose answer
went with a cough's, and speech that was told of late."""


@pytest.mark.parametrize("seed", [*range(20), *FOUND])
def test_manners(seed: int) -> None:
    Scene(seed).run()
