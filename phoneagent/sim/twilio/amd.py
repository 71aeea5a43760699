"""Twilio's answering-machine detection (AMD), as far as it is documented: the thresholds, and the timing of reports.

Like the real one, it judges by how long the far end speaks. So it takes a talkative person for a machine, and a brief
machine for a person.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from phoneagent.sim.twilio.microphone import Utterance

BEEP = "[beep]"
"""The text of an utterance that is the tone after a machine's greeting."""

FAX = "[fax]"
"""The text of an utterance that is a fax machine's answer tone."""

FAX_MS = 500.0

LISTEN_SECONDS = 0.1
"""How often the audio is checked."""


@dataclass(frozen=True, slots=True)
class Detection:
    """The settings of one call's detection: `MachineDetection` and its thresholds, in milliseconds."""

    until_end: bool
    """DetectMessageEnd: a machine is reported when its greeting is over."""

    timeout_ms: float = 30_000
    speech_ms: float = 2400
    speech_end_ms: float = 1200
    silence_ms: float = 5000

    @classmethod
    def of_form(cls, form: Mapping[str, str]) -> Detection | None:
        """Return the settings in a call's form; None without detection."""
        mode = form.get("MachineDetection")
        if mode not in ("Enable", "DetectMessageEnd") or form.get("SendDigits"):  # sending digits turns it off
            return None
        return cls(
            until_end=mode == "DetectMessageEnd",
            timeout_ms=float(form.get("MachineDetectionTimeout", 30)) * 1000,
            speech_ms=float(form.get("MachineDetectionSpeechThreshold", 2400)),
            speech_end_ms=float(form.get("MachineDetectionSpeechEndThreshold", 1200)),
            silence_ms=float(form.get("MachineDetectionSilenceTimeout", 5000)),
        )

    def decide(self, speech: Sequence[Utterance], now_ms: float) -> str | None:
        """Return `AnsweredBy` at a moment of the call; None while nothing is decided.

        `speech` has the far end's utterances by then; one in progress counts up to now.
        """
        if any(each.text == FAX and now_ms - each.start_ms >= FAX_MS for each in speech):
            return "fax"
        beeps = [each for each in speech if each.text == BEEP and each.end_ms <= now_ms]
        words = [each for each in speech if each.text not in (BEEP, FAX)]
        if beeps:
            return "machine_end_beep" if self.until_end else "machine_start"
        if not words:
            return "unknown" if now_ms >= min(self.silence_ms, self.timeout_ms) else None
        silent_ms = now_ms - max(each.end_ms for each in words)
        if max(min(each.end_ms, now_ms) - each.start_ms for each in words) >= self.speech_ms:
            if not self.until_end:
                return "machine_start"
            if silent_ms >= self.silence_ms:
                return "machine_end_silence"
        elif silent_ms >= self.speech_end_ms:
            return "human"
        if now_ms < self.timeout_ms:
            return None
        return "machine_end_other" if self.until_end else "unknown"


class Far(Protocol):
    """The line of an answered call, as the detection hears it."""

    call_sid: str
    account_sid: str
    ended_by: str | None

    @property
    def speech(self) -> list[Utterance]: ...
    @property
    def duration_ms(self) -> float: ...


async def detect(
    line: Far,
    form: Mapping[str, str],
    notify: Callable[[str, Mapping[str, str], str], object],
    report: Callable[[str], object],
    answered_by: str | None = None,
    after_seconds: float = 0.0,
) -> None:
    """Detect who answered a call with this form, and deliver the callback, unless the call is over before.

    `answered_by` overrides the result; it comes `after_seconds`. `report` gets what is not simulated.
    """
    detection = Detection.of_form(form)
    if detection is None:
        return
    url = form.get("AsyncAmdStatusCallback")
    if form.get("AsyncAmd") != "true" or url is None:
        report("AMD without AsyncAmd and its callback is more than the simulated phone can carry out")
        return
    loop = asyncio.get_running_loop()
    began, verdict = loop.time(), None
    while verdict is None:
        await asyncio.sleep(LISTEN_SECONDS)
        if line.ended_by is not None:
            return
        if answered_by is None:
            verdict = detection.decide(line.speech, line.duration_ms)
        elif loop.time() - began >= after_seconds:
            verdict = answered_by
    fields = {
        "CallSid": line.call_sid,
        "AccountSid": line.account_sid,
        "AnsweredBy": verdict,
        "MachineDetectionDuration": str(round((loop.time() - began) * 1000)),
    }
    notify(url, fields, form.get("AsyncAmdStatusCallbackMethod", "POST"))
