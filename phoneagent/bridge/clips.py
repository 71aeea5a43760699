"""Audio from phoneagent itself in a call: clips, and the tones of keys. It is played in order with the agent's words.

It waits in the same queue as what the agent should say, and never overlaps a response. In the transcript it is a turn
of the agent, heard or cut like any other.
"""

from __future__ import annotations

from phoneagent.bridge.conversation import Conversation
from phoneagent.bridge.interruption import Interruptions
from phoneagent.bridge.names import MADE_UP
from phoneagent.bridge.playback import Playback
from phoneagent.bridge.prompts import Sound, Wanted
from phoneagent.bridge.requests import Verdict
from phoneagent.bridge.transcript import Transcript
from phoneagent.protocol.items import system_message
from phoneagent.protocol.realtime import ItemCreate


class Sounds:
    """The clips and key tones of one call."""

    def __init__(
        self, playback: Playback, conversation: Conversation, transcript: Transcript, interruptions: Interruptions
    ) -> None:
        self._playback = playback
        self._conversation = conversation
        self._transcript = transcript
        self._interruptions = interruptions
        self._number = 0

    def play(self, sound: Sound) -> bool:
        """Put a sound in line. Return False if too much waits, or the call is about to end."""
        return self._conversation.responses.want(Wanted("sound", sound=sound))

    def poll(self, *, speech: bool) -> Verdict | None:
        """Play what is next in line. `speech`: the other side speaks. Return the trouble if it cannot be played."""
        if not self._conversation.connected:
            return None
        while (sound := self._conversation.responses.take_sound(speech=speech)) is not None:
            if not self._begin(sound):
                return Verdict("trouble", "a sound was not played: the caller's socket is not accepting audio")
        return None

    def _begin(self, sound: Sound) -> bool:
        self._number += 1
        item_id = f"{MADE_UP}sound_{self._number}"  # the model has no item for it
        if not self._playback.queue(sound.payload, item_id):
            return False
        if sound.protected:
            self._interruptions.protect(item_id)
        self._transcript.agent_text(item_id, sound.text)
        self._playback.finish(item_id)
        if sound.told:
            self._conversation.outbox.append(ItemCreate(item=system_message(sound.told)))
        return True
