"""Idle: neither side speaks, and nothing is due.

A caller who says nothing is asked whether they are still there, and finally the agent says goodbye. Only words and keys
count as a sign of life: a turn without words (a radio, a noise) does not, and the agent's answer to it does not restart
the time. While speech is on, the caller never counts as silent.

If an agent has said goodbye without hanging up, the call ends after a while in which neither side speaks. Its last
words show it: they are among those that end a conversation, and ask nothing. If that is missed, the rule above ends the
call.
"""

from __future__ import annotations

import math
import re

from phoneagent.bridge import prompts
from phoneagent.bridge.conversation import Conversation
from phoneagent.bridge.dialogue import Dialogue
from phoneagent.bridge.requests import Verdict

PAUSE_SECONDS = 3.0
"""How long nothing must be heard before the caller is asked, however long they have given no sign of life."""

LAST_CHARS = 80
"""How many characters at the end of a turn are searched for a goodbye."""

_PARTING = re.compile(
    r"\b(?:good[ -]?bye|bye|good night|take care(?! of)|see you|talk to you (?:soon|later)"
    r"|(?<!we )(?<!they )(?<!i )have an? (?:very )?(?:nice|great|good|lovely|wonderful|pleasant|safe)"
    r" (?:day|morning|afternoon|evening|night|weekend|week|one|time|trip|flight|journey|stay|rest of)"
    r"|auf wieder(?:sehen|hören)|tschüss|bis bald|schönen (?:tag|abend)|schönes wochenende"
    r"|au revoir|bonne (?:journée|soirée|fin de journée)|à bientôt"
    r"|adiós|hasta (?:luego|pronto|mañana)|que tengas? (?:un |una )?(?:buen|buena|excelente|lindo|linda)"
    r" (?:día|tarde|noche|fin de semana|semana|viaje)"
    r"|arrivederci|arrivederla|buona (?:giornata|serata)"
    r"|adeus|tchau|até (?:logo|breve|mais)|tenha (?:um|uma) (?:bom|boa|ótimo|ótima)"
    r" (?:dia|tarde|noite|fim de semana|semana|viagem)"
    r"|tot ziens|fijne (?:dag|avond)|do widzenia|miłego dnia|hej då|ha det bra|farvel)\b"
    r"|再见|再見|さようなら|失礼いたします|안녕히",
    re.IGNORECASE,
)


def says_goodbye(words: str) -> bool:
    """Return whether a turn ends the conversation: its last words say goodbye, and ask nothing."""
    last = words[-LAST_CHARS:]
    return "?" not in last and "？" not in last and _PARTING.search(last) is not None


class IdleLine:
    """The rules for a line that is idle for too long. A time of 0 turns its rule off; `now` is in seconds."""

    def __init__(
        self,
        conversation: Conversation,
        dialogue: Dialogue,
        *,
        idle_seconds: float,
        idle_prompts: int,
        closing_silence_seconds: float,
    ) -> None:
        self._conversation = conversation
        self._dialogue = dialogue
        self._idle_seconds = idle_seconds
        self._idle_prompts = idle_prompts
        self._closing_seconds = closing_silence_seconds
        self._open_since: float | None = None
        self._since: float | None = None  # since when the caller has given no sign of life
        self._parting = False
        self._prompts = 0
        self._prompted_at = -math.inf

    def poll(self, now: float, *, idle: bool) -> Verdict | None:
        """Update with whether the line is `idle`: neither side speaks, and nothing is due. Return what follows."""
        if not idle:
            self._open_since = None
            return None
        if self._open_since is None:
            self._open_since = now
            self._parting = self._dialogue.caller_spoke and says_goodbye(self._dialogue.agent_said)
            if self._since is None or not self._dialogue.wordless:
                self._since = now
        if (parted_at := self._parted_at()) is not None and now >= parted_at:
            quiet = f"neither side spoke for {self._closing_seconds:g} s"
            return Verdict("parted", f"the agent said goodbye, and {quiet}")
        if (ask_at := self._ask_at()) is None or now < ask_at:
            return None
        if self._dialogue.sign_at > self._prompted_at:
            self._prompts = 0
        if self._prompts == self._idle_prompts:
            return Verdict("time_up", "the caller was silent")
        self._prompts, self._prompted_at, self._since = self._prompts + 1, now, None
        self._conversation.responses.want(prompts.still_there())
        return self._conversation.move_on(now)

    def get_timer(self) -> float | None:
        """Return when `poll` is due, if the line stays idle."""
        return min((at for at in (self._parted_at(), self._ask_at()) if at is not None), default=None)

    def _parted_at(self) -> float | None:
        if self._open_since is None or not (self._parting and self._closing_seconds):
            return None
        return self._open_since + self._closing_seconds

    def _ask_at(self) -> float | None:
        if self._open_since is None or self._since is None or not self._idle_seconds:
            return None
        pause = min(PAUSE_SECONDS, self._idle_seconds)
        silent_since = max(self._since, self._dialogue.sign_at)
        return max(silent_since + self._idle_seconds, self._open_since + pause)
