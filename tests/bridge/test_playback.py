from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoneagent.bridge import playback as module
from phoneagent.bridge.playback import CUT_ABOVE_CHARS, MAX_WAITING_BYTES, Outcome, Playback
from phoneagent.protocol.audio import base64_bytes, is_base64
from phoneagent.protocol.carrier import Audio, SendMark, ToCarrier
from tests.bridge.rig import ulaw


@pytest.fixture
def playback() -> Playback:
    return Playback()


def take(playback: Playback, now: float = 0.0) -> list[ToCarrier]:
    """Everything that goes to the caller now."""
    messages: list[ToCarrier] = []
    while taken := playback.take(now, 3):
        assert len(taken) <= 3
        messages += taken
    return messages


def shape(messages: list[ToCarrier]) -> list[str | float]:
    """Milliseconds for audio, a name for a mark, "clear"."""
    return [
        base64_bytes(message.payload) / 8 if isinstance(message, Audio)
        else message.name if isinstance(message, SendMark)
        else "clear"
        for message in messages
    ]  # fmt: skip


# --- what goes out ---


def test_audio_goes_as_it_came(playback: Playback) -> None:
    playback.queue(ulaw(60), "i1")
    assert take(playback) == [Audio(ulaw(60))]


def test_a_mark_follows_each_100_ms_and_the_end_of_an_item(playback: Playback) -> None:
    for _ in range(4):
        playback.queue(ulaw(50), "i1")
    playback.queue(ulaw(30), "i1")
    playback.finish("i1")
    assert shape(take(playback)) == [50, 50, "1.1", 50, 50, "1.2", 30, "1.3"]


def test_the_end_of_an_item_needs_no_second_mark(playback: Playback) -> None:
    playback.queue(ulaw(100), "i1")
    playback.finish("i1")
    playback.finish("i1")
    assert shape(take(playback)) == [100, "1.1"]


def test_audio_of_our_own_gets_its_mark_too(playback: Playback) -> None:
    playback.queue(ulaw(30))
    playback.finish()
    assert shape(take(playback)) == [30, "1.1"]


def test_a_long_delta_is_cut_without_decoding_it(playback: Playback) -> None:
    payload = base64.b64encode(bytes(range(256)) * 20).decode()
    assert len(payload) > CUT_ABOVE_CHARS
    playback.queue(payload, "i1")
    pieces = [message.payload for message in take(playback) if isinstance(message, Audio)]
    assert "".join(pieces) == payload
    assert all(is_base64(piece) and len(piece) <= CUT_ABOVE_CHARS for piece in pieces)
    assert all(len(piece) % 640 == 0 for piece in pieces[:-1])


def test_a_delta_of_200_ms_is_not_cut(playback: Playback) -> None:
    playback.queue(ulaw(200), "i1")
    assert shape(take(playback)) == [200, "1.1"]


def test_before_audio_after_a_pause_goes_a_mark(playback: Playback) -> None:
    playback.queue(ulaw(50), "i1")
    take(playback, 0.0)
    playback.queue(ulaw(50), "i1")
    assert shape(take(playback, 0.04)) == [50, "1.1"]
    playback.queue(ulaw(50), "i1")
    take(playback, 0.08)
    playback.queue(ulaw(40), "i1")
    assert shape(take(playback, 0.30)) == ["1.2", 40]


def test_nothing_makes_nothing(playback: Playback) -> None:
    playback.queue("", "i1")
    playback.finish("i1")
    playback.finish("i2")
    playback.finish_items()
    playback.finish()
    assert take(playback) == []
    assert playback.idle
    assert playback.cut(0.0) == []
    assert take(playback) == []


def test_too_much_that_nobody_takes_is_refused(playback: Playback, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_WAITING_BYTES >= 8000 * 60
    monkeypatch.setattr(module, "MAX_WAITING_BYTES", 1600)
    assert playback.queue(ulaw(100), "i1")
    assert not playback.queue(ulaw(150), "i1")
    assert playback.unsent_ms == 100
    assert playback.queue(ulaw(100), "i1")
    assert playback.cut(0.0)[0].received_ms == 200


# --- what was heard ---


def bytes_heard(playback: Playback, now: float) -> float:
    return playback.heard(now) / 8


def test_before_the_first_echo_time_counts_from_the_first_write(playback: Playback) -> None:
    playback.queue(ulaw(200), "i1")
    assert bytes_heard(playback, 5.0) == 0
    take(playback, 10.0)
    assert bytes_heard(playback, 9.0) == 0
    assert bytes_heard(playback, 10.05) == pytest.approx(50)
    assert bytes_heard(playback, 99.0) == 200


def test_it_waits_at_the_next_mark_for_its_echo(playback: Playback) -> None:
    for _ in range(3):
        playback.queue(ulaw(100), "i1")
    take(playback, 0.0)
    assert bytes_heard(playback, 9.0) == 100
    playback.acknowledge("1.1", 9.0)
    assert bytes_heard(playback, 9.0) == 100
    assert bytes_heard(playback, 9.06) == pytest.approx(160)
    playback.acknowledge("1.3", 9.07)  # proves those before it
    assert bytes_heard(playback, 9.9) == 300
    assert playback.idle


def test_an_echo_without_a_name_is_that_of_the_oldest_mark_if_it_may_be(playback: Playback) -> None:
    playback.acknowledge("", 0.0)
    for _ in range(2):
        playback.queue(ulaw(100), "i1")
    take(playback, 0.0)
    playback.acknowledge("", 0.09)  # not played yet: of an older generation
    assert bytes_heard(playback, 9.0) == 100
    playback.acknowledge("", 0.11)
    assert bytes_heard(playback, 0.11) == 100
    playback.acknowledge("", 0.22)
    assert playback.idle


def test_it_counts_on_to_audio_that_has_no_mark_yet(playback: Playback) -> None:
    playback.queue(ulaw(100), "i1")
    playback.queue(ulaw(50), "i1")
    take(playback, 0.0)
    playback.acknowledge("1.1", 0.1)
    assert bytes_heard(playback, 0.13) == pytest.approx(130)
    assert bytes_heard(playback, 0.5) == 150
    assert not playback.idle


def test_it_does_not_run_through_a_pause(playback: Playback) -> None:
    playback.queue(ulaw(50), "i1")
    take(playback, 0.0)
    playback.queue(ulaw(50), "i1")
    take(playback, 1.0)
    assert bytes_heard(playback, 1.01) == 50
    playback.acknowledge("1.1", 1.02)
    assert bytes_heard(playback, 1.03) == pytest.approx(60)


def test_audio_written_after_the_echo_counts_from_its_writing(playback: Playback) -> None:
    playback.queue(ulaw(100), "i1")
    take(playback, 0.0)
    playback.acknowledge("1.1", 0.1)
    playback.queue(ulaw(100), "i1")
    take(playback, 0.5)
    assert bytes_heard(playback, 0.52) == pytest.approx(120)


@pytest.mark.parametrize("name", ["1.7", "2.1", "0.1", "", "x"])
def test_an_echo_of_a_mark_that_is_not_out_proves_nothing(playback: Playback, name: str) -> None:
    playback.queue(ulaw(100), "i1")
    playback.finish("i1")
    take(playback, 0.0)
    assert playback.acknowledge(name, 0.05) == []
    assert bytes_heard(playback, 0.05) == pytest.approx(50)


# --- items that are over ---


def test_an_item_is_over_when_its_last_mark_comes_back(playback: Playback) -> None:
    playback.queue(ulaw(100), "i1")
    playback.queue(ulaw(50), "i1")
    playback.finish("i1")
    take(playback)
    assert playback.acknowledge("1.1", 0.1) == []
    assert playback.holds("i1")
    assert playback.acknowledge("1.2", 0.2) == [Outcome("i1", 0, 150, 150, complete=True)]
    assert not playback.holds("i1")
    assert playback.acknowledge("1.2", 0.3) == []


def test_an_item_that_waits_here_is_not_over(playback: Playback) -> None:
    playback.queue(ulaw(100), "i1")
    take(playback)
    playback.queue(ulaw(100), "i1")
    playback.finish("i1")
    assert playback.acknowledge("1.1", 0.1) == []


def test_an_item_that_may_go_on_is_not_over(playback: Playback) -> None:
    playback.queue(ulaw(100), "i1")
    take(playback)
    assert playback.acknowledge("1.1", 0.1) == []
    assert playback.holds("i1")


def test_the_end_may_come_after_all_was_heard() -> None:
    playback = Playback()
    playback.queue(ulaw(100), "i1")
    take(playback)
    playback.acknowledge("1.1", 0.1)
    playback.finish("i1")
    take(playback, 0.2)
    assert not playback.holds("i1")
    assert playback.cut(0.3) == []


def test_the_end_of_a_response_ends_its_items(playback: Playback) -> None:
    playback.queue(ulaw(30), "i1")
    playback.queue(ulaw(30), "i2")
    playback.finish("i1")
    playback.finish_items()
    assert shape(take(playback)) == [30, 30, "1.1"]
    assert [outcome.item_id for outcome in playback.acknowledge("1.1", 0.1)] == ["i1", "i2"]


def test_items_may_overlap(playback: Playback) -> None:
    for item in ("i1", "i2", "i1", "i2"):
        playback.queue(ulaw(100), item)
    take(playback, 0.0)
    playback.acknowledge("1.2", 0.2)
    cuts = playback.cut(0.25)
    assert [(cut.item_id, cut.heard_ms, cut.received_ms) for cut in cuts] == [("i1", 150, 200), ("i2", 100, 200)]


# --- cutting ---


def test_a_cut_drops_what_waits_and_clears_what_is_out(playback: Playback) -> None:
    playback.queue(ulaw(100), "i1", 3)
    take(playback, 0.0)
    playback.queue(ulaw(100), "i1", 3)
    assert playback.cut(0.05) == [Outcome("i1", 3, 50, 200, complete=False)]
    assert shape(take(playback, 0.05)) == ["clear"]
    assert playback.idle
    assert playback.unsent_ms == 0
    assert not playback.holds("i1")


def test_a_cut_of_what_waits_needs_no_clear(playback: Playback) -> None:
    playback.queue(ulaw(100), "i1")
    assert playback.cut(0.0) == [Outcome("i1", 0, 0, 100, complete=False)]
    assert take(playback) == []


def test_a_cut_of_an_unfinished_item_that_was_all_heard_needs_no_clear(playback: Playback) -> None:
    playback.queue(ulaw(100), "i1")
    take(playback, 0.0)
    playback.acknowledge("1.1", 0.1)
    assert playback.cut(0.2) == [Outcome("i1", 0, 100, 100, complete=False)]
    assert take(playback) == []


def test_items_not_begun_are_cut_at_zero_and_oldest_first(playback: Playback) -> None:
    for item in ("i1", "i2", "i3"):
        playback.queue(ulaw(100), item)
        playback.finish(item)
    take(playback, 0.0)
    playback.acknowledge("1.1", 0.1)
    assert [(cut.item_id, cut.heard_ms) for cut in playback.cut(0.1201)] == [("i2", 20), ("i3", 0)]


def test_after_a_cut_old_marks_prove_nothing_and_names_stay_unique(playback: Playback) -> None:
    playback.queue(ulaw(100), "i1")
    old = take(playback, 0.0)
    playback.cut(0.05)
    playback.queue(ulaw(100), "i2")
    new = take(playback, 0.1)
    assert shape(old) == [100, "1.1"]
    assert shape(new) == ["clear", 100, "2.1"]
    assert playback.acknowledge("1.1", 0.11) == []
    assert bytes_heard(playback, 0.11) == pytest.approx(10)


def test_the_clear_goes_once_even_if_it_was_late(playback: Playback) -> None:
    playback.queue(ulaw(100), "i1")
    take(playback, 0.0)
    playback.cut(0.05)
    playback.cut(0.06)
    playback.queue(ulaw(50), "i2")
    assert shape(take(playback, 0.1)) == ["clear", 50]


def test_parts_of_a_millisecond_are_rounded_down(playback: Playback) -> None:
    playback.queue(base64.b64encode(bytes(807)).decode(), "i1")
    take(playback, 0.0)
    assert playback.cut(0.0569) == [Outcome("i1", 0, 56, 100, complete=False)]


def test_when_all_that_was_written_is_played_at_the_earliest(playback: Playback) -> None:
    playback.queue(ulaw(100), "i1")
    playback.queue(ulaw(100), "i1")
    take(playback, 5.0)
    assert playback.dry_at == pytest.approx(5.2)
    playback.queue(ulaw(100), "i1")
    take(playback, 9.0)
    assert playback.dry_at == pytest.approx(9.1)


steps = st.lists(
    st.tuples(
        st.sampled_from(["queue", "queue", "own", "finish", "all", "pop", "pop", "echo", "cut", "wait"]),
        st.integers(0, 4),
        st.integers(0, 4000),
    ),
    max_size=80,
)


@given(steps)
def test_every_byte_is_sent_or_dropped_by_a_cut_or_waiting(sequence: list[tuple[str, int, int]]) -> None:
    playback, now = Playback(), 0.0
    queued = sent = dropped = 0
    names: list[str] = []
    for step, number, amount in sequence:
        match step:
            case "queue" | "own":
                item = f"{playback.generation}.{number}" if step == "queue" else None
                assert playback.queue(base64.b64encode(bytes(amount)).decode(), item)
                queued += amount
            case "finish":
                playback.finish(f"{playback.generation}.{number}")
            case "all":
                playback.finish_items()
            case "pop":
                for message in playback.take(now, 1):
                    if isinstance(message, Audio):
                        sent += base64_bytes(message.payload)
                    elif isinstance(message, SendMark):
                        names.append(message.name)
            case "echo" if names:
                for outcome in playback.acknowledge(names[amount % len(names)], now):
                    assert outcome.complete
                    assert outcome.heard_ms == outcome.received_ms
            case "cut":
                dropped += round(playback.unsent_ms * 8)
                for outcome in playback.cut(now):
                    assert 0 <= outcome.heard_ms <= outcome.received_ms
            case _:
                now += amount / 8000
        assert queued == sent + dropped + playback.unsent_ms * 8
        assert playback.heard(now) <= sent
    assert len(set(names)) == len(names)
