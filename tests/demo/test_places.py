"""Where the agent's words are among the bytes that the phone received."""

from __future__ import annotations

from phoneagent.demo.places import locate
from phoneagent.protocol.audio import tone
from phoneagent.sim.model.records import AudioItem
from phoneagent.sim.twilio.playout import Clear


def items_of(*sounds: bytes) -> list[AudioItem]:
    return [
        AudioItem(str(number), "r", "", audio=bytearray(sound), delta_log=[(number, len(sound))])
        for number, sound in enumerate(sounds)
    ]


def test_locate_items_that_begin_alike():
    """The cut of the first must not run on into the second, though both begin with the same sound."""
    first, second = tone(300, 500) + tone(400, 500), tone(300, 500) + tone(500, 500)
    received = first[:6000] + second
    places = locate(items_of(first, second), received, [Clear(0, 0, 5000, 6000)])
    assert [(place.pieces, place.clear) for place in places.values()] == [
        (((0, 6000, 0),), 0),
        (((6000, 8000, 0),), None),
    ]


def test_locate_skips_foreign_sounds():
    items = items_of(tone(300, 500), tone(500, 500))
    received = bytes(items[0].audio) + tone(700, 300) + bytes(items[1].audio)
    assert [place.pieces for place in locate(items, received, []).values()] == [((0, 4000, 0),), ((6400, 4000, 0),)]


def test_locate_an_item_cut_within_its_first_frames():
    items = items_of(tone(300, 500), tone(500, 500))
    received = bytes(items[0].audio[:100]) + bytes(items[1].audio)
    places = locate(items, received, [Clear(0, 0, 100, 100)])
    assert [(place.pieces, place.clear) for place in places.values()] == [
        (((0, 100, 0),), 0),
        (((100, 4000, 0),), None),
    ]


def test_locate_ignores_items_without_audio():
    assert locate([AudioItem("0", "r", "nothing")], b"", []) == {}


def test_locate_an_item_that_goes_on_after_pauses():
    item = tone(300, 500) + tone(410, 500) + tone(530, 500)
    received = item[:9000] + item[3000:8000] + item[7000:] + tone(700, 400)
    clears = [Clear(0, 0, 3100, 9000), Clear(0, 0, 13_050, 14_000)]  # the second one takes the first piece's rest back
    (place,) = locate(items_of(item), received, clears).values()
    assert (place.pieces, place.clear) == (((0, 9000, 0), (9000, 5000, 3000), (14_000, 5000, 7000)), None)


def test_locate_what_follows_a_pause_that_the_caller_then_ends():
    item, answer = tone(300, 1000), tone(530, 500)
    places = locate(items_of(item, answer), item[:6000] + answer, [Clear(0, 0, 2000, 6000)])
    assert [(place.pieces, place.clear) for place in places.values()] == [
        (((0, 6000, 0),), 0),
        (((6000, 4000, 0),), None),
    ]
