"""The sound devices of this machine: their list, and the choice of one by number or by part of its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from phoneagent.errors import ConfigurationError, PhoneAgentError

Kind = Literal["input", "output"]
"""The microphone side or the loudspeaker side of a device."""

_NOUNS = {"input": "microphone", "output": "loudspeaker"}


class SoundError(PhoneAgentError):
    """The sound card cannot be used, or can no longer be used."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device: its number and name in PortAudio, its channels in each direction, and its default rate."""

    number: int
    name: str
    inputs: int
    outputs: int
    rate_hz: int

    def channels(self, kind: Kind) -> int:
        """Return how many channels it has in this direction; 0 means that it has none."""
        return self.inputs if kind == "input" else self.outputs


def list_devices(backend: Any) -> list[Device]:
    """Return the devices that `backend`, the module `sounddevice`, knows."""
    return [
        Device(
            number,
            str(each["name"]),
            int(each["max_input_channels"]),
            int(each["max_output_channels"]),
            round(each["default_samplerate"]),
        )
        for number, each in enumerate(backend.query_devices())
    ]


def choose(devices: Sequence[Device], kind: Kind, wanted: str | None, default: int) -> Device:
    """Return the device that `wanted` names, by number or by part of its name; None takes number `default`.

    Raises:
        SoundError: there is no device at all.
        ConfigurationError: there is none with that number or name, or the name matches several.
    """
    noun, fitting = _NOUNS[kind], [each for each in devices if each.channels(kind)]
    if not fitting:
        raise SoundError(f"this machine has no {noun}: connect one, or start the sound server (PipeWire, PulseAudio)")
    if wanted is None:
        return next((each for each in fitting if each.number == default), fitting[0])
    if wanted.isdecimal():
        found = [each for each in fitting if each.number == int(wanted)]
    else:
        name = wanted.casefold()
        found = [each for each in fitting if each.name.casefold() == name]
        found = found or [each for each in fitting if name in each.name.casefold()]
    if not found:
        raise ConfigurationError([f"--{kind} {wanted}: no {noun} has this number or name; --devices lists them"])
    if len({each.name for each in found}) > 1:
        several = ", ".join(f"{each.number} ({each.name})" for each in found[:4])
        raise ConfigurationError([f"--{kind} {wanted}: several fit, {several}; give a number"])
    return found[0]


def describe(devices: Sequence[Device], default_input: int, default_output: int) -> list[str]:
    """Return the list as text, one line for each device; the default ones are marked."""
    if not devices:
        return ["this machine has no sound devices"]
    lines = []
    for each in devices:
        sides = [_NOUNS["input"]] if each.inputs else []
        sides += [_NOUNS["output"]] if each.outputs else []
        marks = [" (default microphone)"] if each.inputs and each.number == default_input else []
        marks += [" (default loudspeaker)"] if each.outputs and each.number == default_output else []
        lines.append(f"{each.number:3}  {each.name}: {' and '.join(sides)}, {each.rate_hz} Hz{''.join(marks)}")
    return lines
