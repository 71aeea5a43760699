from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoneagent.bridge import playback as module
from phoneagent.bridge.playback import CUT_ABOVE_CHARS, MARK_SECONDS, MAX_WAITING_BYTES, Playback
from phoneagent.bridge.spoken_items import Outcome
from phoneagent.protocol.audio import base64_bytes, is_base64, silence
from phoneagent.protocol.carrier import Audio, Clear, SendMark, ToCarrier
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


def test_too_much_unsent_audio_is_refused(playback: Playback, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_clip_that_is_unsent_is_dropped_when_the_model_speaks(playback: Playback) -> None:
    playback.queue(ulaw(300))
    playback.finish()
    assert shape(playback.take(0.0, 1)) == [120]
    playback.queue(ulaw(50), "i1")
    assert playback.unsent_ms == 50
    assert 50 in shape(take(playback, 0.1))
    playback.queue(ulaw(50), "i1")
    assert playback.unsent_ms == 50


def test_pauses_between_what_is_played_are_kept_for_their_reader(playback: Playback) -> None:
    for at in (1.0, 1.05, 2.0):
        playback.queue(ulaw(100), "i1")
        take(playback, at)
    assert list(playback.gaps) == [(float("-inf"), 1.0), (pytest.approx(1.2), 2.0)]


def test_our_own_audio_is_not_the_model_s(playback: Playback) -> None:
    playback.queue(ulaw(100), "i1")
    take(playback, 1.0)
    playback.queue(ulaw(100))
    take(playback, 1.0)
    assert (playback.spoken_until, playback.dry_at) == (pytest.approx(1.1), pytest.approx(1.2))
    playback.cut(1.05)
    assert playback.spoken_until == 1.05


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
    queued = sent = dropped = clips = 0
    names: list[str] = []
    for step, number, amount in sequence:
        match step:
            case "queue" | "own":
                item = f"{playback.generation}.{number}" if step == "queue" else None
                waited = round(playback.unsent_ms * 8)
                assert playback.queue(base64.b64encode(bytes(amount)).decode(), item)
                queued += amount
                if item is None:
                    clips += amount
                dropped_clips = waited + amount - round(playback.unsent_ms * 8)
                assert 0 <= dropped_clips <= clips
                dropped += dropped_clips
                clips -= dropped_clips
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


def test_what_was_heard_so_far_is_told_without_a_cut(playback: Playback) -> None:
    playback.queue(ulaw(200), "i1")
    playback.finish("i1")
    playback.queue(ulaw(100), "i2", 1)
    messages = take(playback, 10.0)
    assert messages
    assert playback.so_far(10.5) == [
        Outcome("i1", 0, 200, 200, complete=True),  # up to its mark
        Outcome("i2", 1, 0, 100, complete=False),
    ]
    assert playback.so_far(10.5) == playback.cut(10.5)


def test_an_item_knows_the_pauses_in_it_but_not_those_before_it(playback: Playback) -> None:
    playback.queue(ulaw(200), "i1")
    playback.queue(ulaw(100), "i2")
    take(playback, 1.0)
    playback.pause(1.05)
    take(playback, 1.05)
    playback.resume(1.45, "echo")
    take(playback, 1.45)
    playback.pause(1.5)
    take(playback, 1.5)
    playback.resume(1.9, "noise")
    first, second = playback.so_far(1.9)
    assert first.pauses == ((1.05, 1.45, "echo"), (1.5, 1.9, "noise"))
    assert second.pauses == ()


def test_a_pause_that_the_caller_s_socket_did_not_take_was_none(playback: Playback) -> None:
    for item in ("i1", "i2"):
        playback.queue(ulaw(100), item)
        playback.finish(item)
    take(playback, 10.0)
    playback.pause(10.05)
    assert [each.item_id for each in playback.acknowledge("1.1", 10.1)] == ["i1"], "Twilio plays on"
    playback.resume(10.15, "noise")
    assert take(playback, 10.3) == [], "no clear, and nothing is sent again"
    assert [each.pauses for each in playback.so_far(10.15)] == [()]
    assert [each.heard_ms for each in playback.acknowledge("1.2", 10.2)] == [100]
    assert playback.idle


def test_a_pause_begins_when_its_clear_is_taken(playback: Playback) -> None:
    playback.queue(ulaw(200), "i1")
    playback.queue(ulaw(100), "i1")
    take(playback, 10.0)
    playback.pause(10.05)
    assert take(playback, 10.15) == [Clear()]  # the socket was full until then
    assert playback.paused_at == 10.15
    assert [each.heard_ms for each in playback.so_far(11.0)] == [150]
    playback.resume(11.0, "noise")
    assert sum(each for each in shape(take(playback, 11.0)) if isinstance(each, float)) == 150
    assert [each.pauses for each in playback.so_far(11.0)] == [((10.15, 11.0, "noise"),)]


def test_a_clear_that_is_still_due_from_before_a_pause_stays_due(playback: Playback) -> None:
    playback.queue(ulaw(200), "i1")
    take(playback, 10.0)
    playback.cut(10.1)
    playback.queue(ulaw(100), "i2")
    playback.pause(10.2)
    playback.resume(10.3, "noise")
    assert shape(take(playback, 10.4)) == ["clear", 100, "2.1"]


def test_a_cut_in_a_pause_that_was_not_taken_counts_what_was_heard_meanwhile(playback: Playback) -> None:
    playback.queue(ulaw(200), "i1")
    take(playback, 10.0)
    playback.pause(10.05)
    assert [each.heard_ms for each in playback.cut(10.15)] == [150]
    assert take(playback, 10.15) == [Clear()]


# --- a mark that never comes back ---


def test_a_last_mark_that_is_lost_counts_as_heard_in_the_end(playback: Playback) -> None:
    playback.queue(ulaw(200), "i1")
    playback.finish("i1")
    take(playback, 10.0)
    due = playback.get_timer()
    assert due == pytest.approx(10.2 + MARK_SECONDS)
    assert playback.presume_heard(due - 0.01) == []
    assert not playback.idle
    assert playback.presume_heard(due) == [Outcome("i1", 0, 200, 200, complete=True)]
    assert playback.idle
    assert playback.get_timer() is None
    assert playback.acknowledge("1.1", 30.0) == [], "it came after all"


def test_what_waits_here_is_not_presumed_heard(playback: Playback) -> None:
    playback.queue(ulaw(200), "i1")
    playback.take(10.0, 1)
    playback.queue(ulaw(100), "i1")
    assert playback.get_timer() is None
    assert playback.presume_heard(99.0) == []


def test_audio_that_goes_on_after_it_was_presumed_heard_counts_from_its_writing(playback: Playback) -> None:
    playback.queue(ulaw(50), "i1")
    take(playback, 10.0)
    playback.presume_heard(20.0)
    playback.queue(ulaw(60), "i1")
    take(playback, 30.0)
    assert bytes_heard(playback, 30.04) == pytest.approx(90)
    playback.finish("i1")
    assert shape(take(playback, 30.1)) == ["1.1"]
    assert [each.heard_ms for each in playback.acknowledge("1.1", 30.1)] == [110]


def test_our_own_audio_goes_on_after_a_pause_as_the_agent_s_does(playback: Playback) -> None:
    playback.queue(ulaw(200))
    take(playback, 10.0)
    assert playback.pause(10.0) == []
    assert take(playback, 10.0) == [Clear()]
    playback.resume(11.0, "noise")
    assert sum(each for each in shape(take(playback, 11.0)) if isinstance(each, float)) == 200


def test_what_the_caller_heard_lately_ends_with_the_silence_since(playback: Playback) -> None:
    playback.queue(ulaw(100), "i1")
    take(playback, 10.0)
    heard = playback.heard_lately(10.0 + 0.1 + 0.05)
    assert heard == base64.b64decode(ulaw(100)) + silence(50)


def test_without_a_pause_there_is_nothing_to_resume(playback: Playback) -> None:
    playback.queue(ulaw(100), "i1")
    playback.resume(1.0, "noise")
    assert (playback.paused_at, playback.unsent_ms) == (None, 100)


def test_what_was_heard_from_a_position_on(playback: Playback) -> None:
    playback.queue(base64.b64encode(bytes(range(200)) * 8).decode(), "i1")  # 200 ms
    marks = [each for each in take(playback, 10.0) if isinstance(each, SendMark)]
    audio = bytes(range(200)) * 8
    assert playback.heard_from(0, 10.05) == audio[:400]
    assert playback.heard_from(100, 10.05) == audio[100:400]
    assert playback.heard_from(400, 10.05) == b""
    playback.acknowledge(marks[-1].name, 10.2)  # it is no longer kept as it was written
    assert playback.heard_from(300, 10.3) == audio[300:]
    playback.cut(10.3)
    assert playback.heard_from(0, 10.4) == b""


def test_what_was_written_and_is_still_to_be_played() -> None:
    playback = Playback()
    playback.queue(ulaw(100, 0x11), "i1")
    playback.queue(ulaw(100, 0x22), "i1")
    playback.take(10.0, 10)
    assert playback.sounding(10.15) == bytes([0x22]) * 400
    assert playback.sounding(10.5) == b""
