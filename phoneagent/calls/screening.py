"""The first minute of a call that we made: what the far end is, and what to do about it.

The screening sits between the media socket and the session. It listens to the far end, and during a machine's greeting
the model hears silence, so that it does not talk to a machine. `bridge/far_end.py` has the rule.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from phoneagent.agent.call import Call
from phoneagent.bridge import prompts
from phoneagent.bridge.far_end import FarEnd
from phoneagent.bridge.history import Past
from phoneagent.calls.writer import CallerSocket, TappedSocket
from phoneagent.errors import StoreError
from phoneagent.events import CallerSpoke, Event, Turn, TurnEnded
from phoneagent.protocol import carrier
from phoneagent.protocol.audio import BYTES_PER_MS, SILENCE, rms
from phoneagent.protocol.beep import BeepDetector

if TYPE_CHECKING:
    from phoneagent.store.records import OutboundCall

log = logging.getLogger("phoneagent.calls.screening")

SCREENED_SECONDS = 90.0
"""How long the far end is listened to after the call began. A machine's greeting is over by then."""

POLL_SECONDS = 1.0
"""How often the store is asked for the result of Twilio's detection: its callback may come to another process."""

LOUD_RMS = 300

HELLO_SECONDS = 4.0
"""The longest time that an agent waits for the callee to speak first."""

HELLO_MS = 200
"""How much sound counts as a callee who speaks, before the model says so. A click at pick-up is shorter. Silence takes
away a fifth of its own length, so sounds add up for about a second."""

MESSAGE_SECONDS = 60.0
"""The longest time that a message for a machine takes. Then the call ends."""


class Screening:
    """Screens one call. `made` is the call's row, and `poll` returns its current state.

    `decided` records the verdict, and whether a machine got the message.

    `greeting` is the agent's. If the callee speaks first, the model is told to begin with it, and a silent callee hears
    it after a while. With a `past`, the call goes on in another media stream: what was said and decided still counts.
    """

    def __init__(
        self,
        call: Call,
        made: OutboundCall,
        *,
        greeting: str | None,
        poll: Callable[[], Awaitable[OutboundCall | None]],
        decided: Callable[[str, bool | None], asyncio.Future[None]],
        past: Past | None = None,
    ) -> None:
        self._call = call
        self._policy = str(made.plan.get("on_machine", "talk"))
        self._message = str(made.plan.get("message") or "")
        self.callee_first = past is None and made.plan.get("first") == "callee"
        """Whether the agent waits for the callee to speak."""
        self._greeting = greeting or None  # an agent may have an empty one
        self._spoken = self._told = False
        self._loud_ms = 0.0
        self._poll = poll
        self._decided = decided
        self.far_end = FarEnd()
        self._ear = BeepDetector()
        self._heard_ms = 0
        # A machine is listened to for as long as in its first stream: the message may still have to be left.
        self._age_ms = 0 if past is None or made.decided in ("machine", "fax") else past.age_ms
        self._agent_spoke = False
        for turn in () if past is None else past.turns:
            self._note(turn)
        if made.decided is not None:
            self.far_end.known(made.decided)
        self._verdict: str | None = None
        self._left = bool(made.message_left)
        self._saying = self._hung_up = False
        self._said_from_ms = 0
        self._last_words: asyncio.TimerHandle | None = None
        self.deaf = False
        """Whether the model hears silence instead of the far end."""
        self._polling = asyncio.create_task(self._watch()) if made.plan.get("amd") else None

    @property
    def open(self) -> bool:
        """Whether the far end is still listened to."""
        return self._age_ms + self._heard_ms < SCREENED_SECONDS * 1000 and not self._hung_up

    def close(self) -> None:
        """Stop screening: the media stream is over."""
        self._hung_up = True
        if self._polling is not None:
            self._polling.cancel()
        if self._last_words is not None:
            self._last_words.cancel()

    def listen(self, socket: CallerSocket) -> CallerSocket:
        """Return the socket for the session, with this screening in between."""
        return _Screened(socket, self)

    def hear(self, message: carrier.AudioIn) -> None:
        """Handle a frame from the far end, and silence it if the model must not hear it."""
        if not self.open and not self.deaf:
            return
        try:
            audio = base64.b64decode(message.payload)
        except ValueError:  # the bridge judges it
            return
        length_ms = len(audio) // BYTES_PER_MS
        self._heard_ms += length_ms
        if self.open:
            now = (self._age_ms + self._heard_ms) / 1000
            loud = rms(audio) >= LOUD_RMS
            self.far_end.sound(loud, now)
            self._loud_ms = max(0.0, self._loud_ms + (length_ms if loud else -length_ms / 5))
            self._wait_for_hello()
            if (tone := self._ear.hear(audio)) is not None:
                self.far_end.tone(tone, now)
            self._act()
        if self.deaf:
            message.payload = base64.b64encode(SILENCE * len(audio)).decode()

    def _wait_for_hello(self) -> None:
        """Have the agent begin if it waits for the callee, and the callee waits for the agent."""
        if self.callee_first and self._greeting is not None and not self._told:
            self._told = True
            self._call.add(prompts.opening(self._greeting))
        self._spoken = self._spoken or self._loud_ms >= HELLO_MS or self._agent_spoke
        if self.callee_first and not self._spoken and self._heard_ms >= HELLO_SECONDS * 1000:
            self._spoken = True
            if self._greeting is None:
                self._call.respond()
            else:
                self._call.say(self._greeting)

    def amd(self, answered_by: str) -> None:
        """Handle the result of Twilio's detection."""
        if self._polling is not None:
            self._polling.cancel()
            self._polling = None
        self.far_end.amd(answered_by)
        self._act()

    def tell(self, event: Event) -> None:
        """Handle an event of the call. Called from within the session, so what follows happens after it."""
        self._spoken = self._spoken or isinstance(event, CallerSpoke)
        if not isinstance(event, TurnEnded):
            return
        turn = event.turn
        if turn.role == "caller" and not self.open:
            return
        self._note(turn)
        if turn.role == "caller":
            asyncio.get_running_loop().call_soon(self._act)
        elif self._saying and turn.text.strip() and turn.start_ms >= self._said_from_ms:
            asyncio.get_running_loop().call_soon(self._hang_up if turn.interrupted else self._message_left)

    def _note(self, turn: Turn) -> None:
        """Note what either side has said."""
        if turn.role == "agent":
            self._agent_spoke = self._agent_spoke or turn.heard_ms > 0
        else:
            self.far_end.words(turn.text, to_agent=self._agent_spoke)

    def _act(self) -> None:
        """Do what the policy says for this far end."""
        if not self.open:
            return
        verdict = self.far_end.verdict
        if verdict is not None and verdict != self._verdict:
            self._verdict = verdict
            log.info("answered by a %s", verdict, extra={"call_sid": self._call.sid})
            message_left = self._left if verdict == "machine" and self._policy == "leave_message" else None
            self._decided(verdict, message_left)
            if verdict == "fax" or (verdict == "machine" and self._policy == "hang_up"):
                self._call.interrupt()
                self._hang_up()
            elif verdict == "machine" and self._policy == "leave_message":
                self.deaf = True
                self._call.interrupt()
        if self.deaf and self._left:
            self._hang_up()
        elif self.deaf and self.far_end.ready and not self._saying:
            self._saying, self._said_from_ms = True, self._heard_ms
            self._call.interrupt()
            self._call.say(self._message, interruptible=False)
            self._last_words = asyncio.get_running_loop().call_later(MESSAGE_SECONDS, self._hang_up)

    def _message_left(self) -> None:
        """Record that the machine got the message, and only then hang up: a campaign reads it when the call is over."""
        if not self._left:
            self._left = True
            self._decided("machine", True).add_done_callback(lambda _: self._hang_up())

    def _hang_up(self) -> None:
        if not self._hung_up:
            self._hung_up = True
            self._call.hang_up(goodbye=False)

    async def _watch(self) -> None:
        while self.open:
            await asyncio.sleep(POLL_SECONDS)
            with suppress(StoreError):  # the callback may still come to this process
                made = await self._poll()
                if made is not None and made.answered_by is not None:
                    self._polling = None
                    self.amd(made.answered_by)
                    return


class _Screened(TappedSocket):
    """A media socket whose messages pass through a screening."""

    def __init__(self, socket: CallerSocket, screening: Screening) -> None:
        super().__init__(socket)
        self._screening = screening

    def decode(self, raw: str | bytes) -> carrier.FromCarrier | None:
        message = self.socket.decode(raw)
        if isinstance(message, carrier.AudioIn):
            self._screening.hear(message)
        return message
