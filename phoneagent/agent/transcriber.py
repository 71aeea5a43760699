"""The transcriber: it connects a call to another person and transcribes both, without an agent."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from phoneagent.agent.call import is_text
from phoneagent.agent.options import Hearing, Turns
from phoneagent.errors import DefinitionError
from phoneagent.protocol.dialing import refusal

MAX_ANNOUNCEMENT_CHARS = 1000

_E164 = re.compile(r"\+[1-9][0-9]{5,14}")
_PARTY = re.compile(r"(sip|sips|client):[^\s<>&\"']{1,200}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcriber:
    """A transcriber that connects a call to another person and transcribes both.

    Pass it to `PhoneApp` in place of an agent, or return it from the function that chooses the agent.

    `dial` is the other person's phone number in E.164, or a "sip:" or "client:" address. `caller_id` is the number that
    they see; without it they see the caller's number, or the dialed one if that is withheld.

    `announcement` is read to the caller first, for example that the call is transcribed. In many places both sides must
    agree to that.

    `hearing` sets the recognizer, its languages and keywords; `turns` decides where a turn ends.
    """

    dial: str = field(repr=False)
    caller_id: str | None = field(default=None, repr=False)
    announcement: str | None = None
    hearing: Hearing = field(default_factory=Hearing)
    turns: Turns = field(default_factory=Turns)

    def __post_init__(self) -> None:
        """Refuse what would fail in every call. Messages repeat no number.

        Raises:
            DefinitionError: a field has a wrong value.
        """
        if not isinstance(self.dial, str) or not (_E164.fullmatch(self.dial) or _PARTY.fullmatch(self.dial)):
            raise DefinitionError("a transcriber has a malformed dial: write it like +15551230000 or sip:anna@host")
        if _E164.fullmatch(self.dial) and (why := refusal(self.dial)) is not None:
            raise DefinitionError(f"a transcriber cannot dial that number: {why}")
        if self.caller_id is not None and not (isinstance(self.caller_id, str) and _E164.fullmatch(self.caller_id)):
            raise DefinitionError("a transcriber has a malformed caller_id: write a number like +15551230000, or None")
        if (text := self.announcement) is not None:
            if not is_text(text) or not text.strip():
                raise DefinitionError(f"a transcriber has announcement={text!r}: write text that is not empty, or None")
            if len(text) > MAX_ANNOUNCEMENT_CHARS:
                raise DefinitionError(
                    f"a transcriber has an announcement of {len(text)} characters: keep to {MAX_ANNOUNCEMENT_CHARS}"
                )
        for name, kind in (("hearing", Hearing), ("turns", Turns)):
            if not isinstance(value := getattr(self, name), kind):
                raise DefinitionError(f"a transcriber has {name}={value!r}: make it a {kind.__name__}")
        if self.hearing.transcription_models == ():
            raise DefinitionError("a transcriber has hearing without a recognizer: leave models out, or name one")
        if self.turns.detection == "manual":
            raise DefinitionError("a transcriber has manual turns: choose server_vad or semantic_vad")
        if self.turns.idle_timeout_ms is not None:
            raise DefinitionError("a transcriber has turns with idle_timeout_ms: leave it out, because it asks nothing")

    def session(self) -> dict[str, Any]:
        """Return the configuration of a session that only transcribes, in GA's shape."""
        detection = self.turns.session(create_response=False) or {}
        # A session that makes no responses has no options for them.
        found = {name: value for name, value in detection.items() if not name.endswith("_response")}
        heard = {"format": {"type": "audio/pcmu"}, "turn_detection": found, **self.hearing.session()}
        return {"type": "transcription", "audio": {"input": heard}}
