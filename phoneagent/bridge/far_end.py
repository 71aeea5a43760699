"""The far end of an outbound call: a person, an answering machine, a fax or a menu.

There are three sources of evidence: Twilio's answering machine detection (AMD), the tones in the audio, and the words
of the far end. Each is wrong at times, so the better one decides:

| evidence | counts as |
|---|---|
| a fax tone; AMD says fax | fax |
| a beep, within the first minute and before a conversation | machine |
| the words of a machine ("after the tone") | machine |
| AMD hears a beep | machine, unless a menu's words or a conversation say otherwise |
| AMD says that a greeting has ended | machine, unless the far end has answered what the agent said |
| the words of a menu ("press one") | menu, unless a beep follows |
| AMD says human; the far end answers what the agent said, twice | person, unless a machine's words or a beep follow |

AMD's `machine_start` decides nothing: it often means a talkative person.
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

from phoneagent.protocol.beep import Tone

Answerer: TypeAlias = Literal["person", "machine", "fax", "menu"]

BEEP_SECONDS = 60.0
"""A beep later than this after the answer is not a machine's."""

CONVERSATION_TURNS = 2
"""How many answers of the far end to the agent make a conversation."""

SILENT_SECONDS = 5.0
"""A machine that was recognized by its words and is silent for this long has no beep."""

MAX_WORDS_CHARS = 2000

_MACHINE = re.compile(
    r"""(?<!like\ to\ )(?<!want\ to\ )(?<!can\ )leave\ (?:me\ |us\ )?(?:a|your)\ (?:\w+\ )?(?:message|name)
      | (?:after|at|following)\ the\ (?:tone|beep|signal) | record\ your\ message | voice\ ?mail(?:box)?\b
      | mailbox\ (?:is|of|belonging) | (?:isn't|is\ not|not)\ available\ to\ take
      | nach\ dem\ (?:signal|piep|ton) | mailbox\ von | nachricht\ (?:zu\ )?hinterlassen\ sie | hinterlassen\ sie
      | despu[eé]s\ (?:de\ la\ señal|del\ tono) | deje\ su\ mensaje | buz[oó]n\ de\ voz
      | apr[eè]s\ le\ (?:bip|signal) | laissez\ (?:un|votre)\ message | messagerie\ (?:de|vocale)
      | dopo\ il\ segnale | lasciate?\ un\ messaggio""",
    re.VERBOSE | re.IGNORECASE,
)
_KEY = r"(?:[0-9]|one|two|three|four|five|six|seven|eight|nine|zero|pound|star|hash)\b"
_MENU = re.compile(
    rf"\b(?:press|dial)\ (?:the\ )?{_KEY} | dr[uü]cken\ sie | marque\ el | oprima | appuyez\ sur | prema\b".replace(
        " | ", "|"
    ),
    re.IGNORECASE,
)


class FarEnd:
    """What is known about the far end of one call. `now` is in seconds since the answer.

    `ready` means that a machine is now recording.
    """

    def __init__(self) -> None:
        self.ready = False
        self._amd = ""
        self._fax = self._beep = self._machine_words = self._menu_words = False
        self._answers = 0
        self._silent_since: float | None = None

    @property
    def verdict(self) -> Answerer | None:
        """What the far end is; None while that is undecided."""
        if self._fax:
            return "fax"
        if self._beep or self._machine_words:
            return "machine"
        if self._menu_words:
            return "menu"
        if self._answers >= CONVERSATION_TURNS:
            return "person"
        if self._amd == "machine_end_beep" or (self._amd.startswith("machine_end") and not self._answers):
            return "machine"
        if self._amd == "human":
            return "person"
        return None

    def amd(self, answered_by: str) -> None:
        """Handle what Twilio's detection says (`AnsweredBy`)."""
        self._amd = answered_by
        self._fax = self._fax or answered_by == "fax"
        if answered_by.startswith("machine_end") and self.verdict == "machine":
            self.ready = True

    def known(self, verdict: str) -> None:
        """Adopt what an earlier media stream of the call decided. A machine may still be playing its greeting.

        A person counts as one who is in a conversation, so a repeated result of AMD changes nothing.
        """
        self._fax = verdict == "fax"
        self._machine_words = verdict == "machine"
        self._menu_words = verdict == "menu"
        if verdict == "person":
            self._answers = CONVERSATION_TURNS

    def tone(self, tone: Tone, now: float) -> None:
        """Handle a tone that was heard from the far end."""
        if self._answers >= CONVERSATION_TURNS or now > BEEP_SECONDS:
            return  # in a conversation, it is a sound in the room
        self._fax = self._fax or tone.is_fax
        if tone.is_beep:
            self._beep = self.ready = True

    def words(self, text: str, *, to_agent: bool) -> None:
        """Handle what the far end said; `to_agent` is whether the agent had spoken before."""
        said = text[:MAX_WORDS_CHARS]
        if _MACHINE.search(said):
            self._machine_words = True
        elif _MENU.search(said):
            self._menu_words = True
        elif to_agent and said.strip():
            self._answers += 1

    def sound(self, loud: bool, now: float) -> None:
        """Update with whether the far end is audible at `now`.

        A machine that falls silent without a beep is recording too.
        """
        if loud:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = now
        elif self.verdict == "machine" and now - self._silent_since >= SILENT_SECONDS:
            self.ready = True
