"""No call goes silent because a far end writes a field oddly: every field of every message, in the middle of a call."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from phoneagent.bridge.responses import CREATED_SECONDS
from phoneagent.errors import ProtocolError
from phoneagent.protocol import mediastream, realtime
from phoneagent.protocol.mediastream import MediaStream
from tests.bridge.odd_world import BETA, OddWorld
from tests.protocol.mutations import ODD, SERVER_EVENTS, SID, TWILIO_MESSAGES, Path, mutated, paths

MAX_DEAD_AIR_SECONDS = CREATED_SECONDS + 3
"""A request that seems to bring nothing is made again after `CREATED_SECONDS`, and then the model takes its time."""

SPELLED = frozenset(BETA.values())


@cache
def messages(*, beta: bool) -> dict[tuple[str, int], dict[str, Any]]:
    """Every message of a call in which nothing is odd, by its type and count."""
    found: dict[tuple[str, int], dict[str, Any]] = {}

    def note(kind: str, count: int, message: dict[str, Any]) -> None:
        found[kind, count] = copy.deepcopy(message)

    world = OddWorld(note, beta=beta)
    world.run()
    assert_good(world, "nothing is odd")
    return found


def read(kind: str, text: str) -> str | None:
    """What is made of a message, in words; None if it is refused, as of another stream."""
    try:
        if kind in SERVER_EVENTS:
            return repr(realtime.decode(text.encode()))
        return repr(MediaStream(None if kind == "start" else SID).decode(text))
    except ProtocolError:
        return None


def odd_ones(kind: str, message: dict[str, Any]) -> Iterator[tuple[Path, str, str]]:
    """The odd spellings of a message that are read differently: the field, what it is, and the text."""
    known = {
        read(kind, mutated(message, ("event_id",), "null"))
    }  # as the good one: the id of a server event is not read
    for path in paths(message):
        for odd in ODD:
            text = mutated(message, path, odd)
            if path in (("type",), ("event",)) or (path == ("streamSid",) and odd != "missing"):
                continue  # another message, or of another stream
            if path[0] == "session" and len(path) > 1:
                continue  # the call has read it before
            if (meant := read(kind, text)) not in known:
                known.add(meant)
                yield path, odd, text


def assert_good(world: OddWorld, what: object) -> None:
    assert max(world.waits) <= MAX_DEAD_AIR_SECONDS, (what, world.waits, world.rig.troubles)
    assert world.end is not None, what
    assert world.end.ended_by == "caller", (what, world.end, world.rig.troubles)


def test_every_message_is_in_the_call() -> None:
    present = {kind for beta in (False, True) for kind, _ in messages(beta=beta)}
    assert present == realtime.KNOWN.keys() | mediastream.KNOWN.keys()


@pytest.mark.parametrize("kind", sorted(SERVER_EVENTS | TWILIO_MESSAGES))
def test_one_odd_field_of_one_message_silences_no_call(kind: str) -> None:
    beta = kind in SPELLED
    counts = [count for each, count in messages(beta=beta) if each == kind]
    runs = 0
    for at in counts if len(counts) <= 5 else {counts[0], counts[len(counts) // 2], counts[-1]}:
        for path, odd, text in odd_ones(kind, messages(beta=beta)[kind, at]):

            def change(
                each: str, count: int, _: dict[str, Any], place: Any = (kind, at), text: str = text
            ) -> str | None:
                return text if (each, count) == place else None

            world = OddWorld(change, beta=beta)
            world.run()
            assert_good(world, (path, odd))
            runs += 1
    assert runs or kind in ("connected", "stop")


@pytest.mark.parametrize("kind", sorted(SERVER_EVENTS | TWILIO_MESSAGES))
def test_a_far_end_that_always_writes_a_field_oddly_silences_no_call(kind: str) -> None:
    beta = kind in SPELLED
    for path, odd, _ in odd_ones(kind, messages(beta=beta)[kind, 0]):
        if path[-1] in ("delta", "payload") and kind != "response.output_audio_transcript.delta":
            continue  # of nothing but that, no call can live

        def change(each: str, _: int, message: dict[str, Any], path: Path = path, odd: str = odd) -> str | None:
            return mutated(message, path, odd) if each == kind and path in set(paths(message)) else None

        world = OddWorld(change, beta=beta)
        world.run()
        assert_good(world, (path, odd))


def test_audio_that_is_no_base64_is_no_answer() -> None:
    def change(kind: str, _: int, message: dict[str, Any]) -> str | None:
        return mutated(message, ("delta",), "object") if kind == "response.output_audio.delta" else None

    world = OddWorld(change)
    world.run()
    assert world.heard == []
    assert "the model did not speak in three responses in a row" in world.rig.troubles[-1]
