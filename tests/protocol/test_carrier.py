"""The neutral messages of a carrier: a codec for another carrier than Twilio has to make these."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest

from phoneagent.protocol import carrier
from phoneagent.protocol.carrier import Audio, AudioIn, Clear, Key, Played, SendMark, Started, Stopped
from phoneagent.protocol.mediastream import MediaStream


def test_a_stream_starts_with_phone_audio_and_no_parameters_unless_it_says_otherwise() -> None:
    started = Started(stream_sid="MZ1", call_sid="CA1", account_sid="AC1")
    assert started.audio == ("audio/x-mulaw", 8000, 1)
    assert started.parameters == {}


def test_a_start_cannot_be_changed() -> None:
    started = Started(stream_sid="MZ1", call_sid="CA1", account_sid="AC1")
    with pytest.raises(AttributeError):
        started.call_sid = "CA2"  # type: ignore[misc]


def test_parameters_are_not_shared_between_starts() -> None:
    first, second = (Started(stream_sid="MZ1", call_sid="CA1", account_sid="AC1") for _ in range(2))
    assert isinstance(first.parameters, dict)
    first.parameters["token"] = "t"
    assert second.parameters == {}


@pytest.mark.parametrize("message", [AudioIn("AAAA", 20), Played("1.1"), Key("5"), Stopped(), Audio("AAAA"), Clear()])
def test_messages_of_the_same_content_are_equal(message: msgspec.Struct) -> None:
    assert message == type(message)(*msgspec.structs.astuple(message))


def test_messages_of_another_kind_are_not_equal() -> None:
    assert Played("1.1") != SendMark("1.1")
    assert Audio("AAAA") != AudioIn("AAAA", 0)


def test_every_message_is_of_one_direction() -> None:
    kinds = {each for each in vars(carrier).values() if isinstance(each, type) and issubclass(each, msgspec.Struct)}
    incoming, outgoing = set(get_args(carrier.FromCarrier)), set(get_args(carrier.ToCarrier))
    assert incoming | outgoing == kinds
    assert not incoming & outgoing


def test_twilios_codec_writes_every_message_to_a_carrier() -> None:
    made = [Audio("AAAA"), SendMark("1.1"), Clear()]
    assert {type(message) for message in made} == set(get_args(carrier.ToCarrier))
    texts = [MediaStream("MZ1").encode(message) for message in made]
    assert all(b'"streamSid":"MZ1"' in text for text in texts)
