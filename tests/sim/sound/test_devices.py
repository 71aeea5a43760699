"""The choice of a sound device, by number or by part of its name."""

from __future__ import annotations

import pytest

from phoneagent.errors import ConfigurationError
from phoneagent.sim.sound.devices import Device, SoundError, choose, describe, list_devices
from tests.sim.sound.fake_card import FakeBackend

CARDS = [
    Device(0, "HDMI", 0, 8, 48000),
    Device(1, "USB Headset", 1, 2, 44100),
    Device(2, "USB Camera", 1, 0, 48000),
    Device(3, "usb headset pro", 1, 2, 48000),
]


def test_the_list_comes_from_portaudio():
    assert list_devices(FakeBackend()) == [
        Device(0, "Fake headset", 1, 2, 44100),
        Device(1, "Fake monitor", 0, 2, 48000),
    ]


@pytest.mark.parametrize(
    ("kind", "wanted", "default", "number"),
    [
        ("input", None, 2, 2),
        ("input", None, 0, 1),  # the default has no microphone
        ("output", None, -1, 0),  # there is no default
        ("input", "2", 1, 2),
        ("input", "camera", 1, 2),
        ("output", "USB HEADSET", 0, 1),  # the whole name comes before a part of one
        ("output", "pro", 0, 3),
    ],
)
def test_a_device_is_found(kind, wanted, default, number):
    assert choose(CARDS, kind, wanted, default).number == number


@pytest.mark.parametrize(
    ("kind", "wanted", "words"),
    [
        ("input", "0", "--input 0: no microphone has this number"),
        ("output", "camera", "--output camera: no loudspeaker"),
        ("input", "usb", "several fit, 1 (USB Headset), 2 (USB Camera), 3 (usb headset pro); give a number"),
        ("input", "²", "no microphone has this number or name"),
    ],
)
def test_a_device_that_is_not_there(kind, wanted, words):
    with pytest.raises(ConfigurationError) as error:
        choose(CARDS, kind, wanted, 1)
    assert words in str(error.value)


def test_the_same_name_at_two_interfaces_is_one_device():
    twice = [Device(0, "Headset", 1, 1, 44100), Device(1, "Headset", 1, 1, 48000)]
    assert choose(twice, "input", "head", -1).number == 0


def test_a_machine_without_a_microphone():
    with pytest.raises(SoundError, match="this machine has no microphone: connect one"):
        choose(CARDS[:1], "input", None, 0)
    with pytest.raises(SoundError, match="no loudspeaker"):
        choose([], "output", "1", -1)


def test_the_list_for_people():
    assert describe(CARDS[:3], 1, 0) == [
        "  0  HDMI: loudspeaker, 48000 Hz (default loudspeaker)",
        "  1  USB Headset: microphone and loudspeaker, 44100 Hz (default microphone)",
        "  2  USB Camera: microphone, 48000 Hz",
    ]
    assert describe([], -1, -1) == ["this machine has no sound devices"]
