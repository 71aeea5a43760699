"""What the user's code asks of the model itself: items of the conversation, responses, and turns taken by hand."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from phoneagent.bridge.caller import CallerAudio
from phoneagent.bridge.history import Note, Role
from phoneagent.bridge.responses import Ask, ResponseGate
from phoneagent.protocol.realtime import AudioClear, AudioCommit, ItemCreate, ToModel

MAX_WAITING = 1_000
"""What may wait for a model that is not there or does not read; more is refused."""

MAX_ADDED = 100
"""Items that are remembered; the oldest is forgotten first."""


class Asked:
    """Brings what is asked for in line; everything returns False if too much waits, or the call is about to end."""

    def __init__(self, outbox: deque[ToModel], caller_audio: CallerAudio, responses: ResponseGate) -> None:
        self._outbox = outbox
        self._caller_audio = caller_audio
        self._responses = responses
        self.added: deque[Note] = deque(maxlen=MAX_ADDED)
        """What was added, for a session that has to be told the conversation again; its `at` is in seconds of `now`."""

    def add(self, text: str, role: Role, now: float) -> bool:
        """Add a message of the `system` or the `user` to the conversation. By itself it is not answered."""
        note = Note(role=role, text=text, at=now)
        if not self._send(ItemCreate(item=note.item())):
            return False
        self.added.append(note)
        return True

    def respond(self, options: Mapping[str, Any]) -> bool:
        """Ask for a response, with `options` of its own, once it may be asked for: it answers all there is."""
        return self._responses.want(Ask("asked", options=dict(options)))

    def commit(self) -> bool:
        """Make a turn of the caller's audio so far, also of what waits; it is not answered by itself."""
        if len(self._outbox) >= MAX_WAITING:
            return False
        self._caller_audio.speech(False, by_hand=True)
        self._outbox.extend(self._caller_audio.take())
        self._outbox.append(AudioCommit())
        return True

    def commit_again(self) -> None:
        """Another model hears the turn once more: if it was over, it is to know that."""
        if self._caller_audio.by_hand and not self._caller_audio.speaking:
            self.commit()

    def clear(self) -> bool:
        """Forget the caller's audio that is in no turn, also what waits."""
        self._caller_audio.forget()
        self._caller_audio.speech(True, by_hand=True)  # what comes now is meant to be heard
        return self._send(AudioClear())

    def _send(self, message: ToModel) -> bool:
        if len(self._outbox) >= MAX_WAITING:
            return False
        self._outbox.append(message)
        return True
