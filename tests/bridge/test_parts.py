"""The parts of a call: they are joined as the bridge needs them."""

from __future__ import annotations

from phoneagent.bridge.bridge import Bridge
from phoneagent.bridge.policy import Policy


def test_the_parts_share_what_they_must() -> None:
    bridge = Bridge(Policy(), call_sid="CA1")
    assert bridge.signs is bridge.conversation.signs
    assert bridge.responses is bridge.conversation.responses
    assert bridge.held is bridge.interruptions.held
    assert (bridge.ended, bridge.stream_sid, list(bridge.requests)) == (None, None, [])
