"""The sounds that callers make while an agent speaks: the audio on the line, and whether the agent must stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks import mixing
from phoneagent.protocol.audio import decode_ulaw
from phoneagent.protocol.wav import ulaw_of_wav

DATA = Path(__file__).parent / "data"
PEOPLE = ("woman", "man", "girl")
VOICE_DB = -20.0
"""The level of a caller's voice."""

LOUD_DB = -45.0
"""From this level on, 20 ms of a sound count as its beginning."""

NOISE_MS = 5000
HALLUCINATED = ("", "Thank you.", "", "you", "Bye.")
"""What recognizers write for audio without speech, in turn: nothing, or phrases that end many videos."""


@dataclass(frozen=True, slots=True)
class Sound:
    """A sound that the caller makes: `words` is what a recognizer makes of it, if anything."""

    at_ms: int
    pcm: bytes
    words: str = ""


@dataclass(frozen=True, slots=True)
class EchoPath:
    """How the agent's own voice comes back: `loss_db` softer, `delay_ms` later, perhaps through a room."""

    delay_ms: float
    loss_db: float
    room: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One call. The sounds begin while the agent speaks; `stop` tells whether the agent must stop for them."""

    group: str
    name: str
    stop: bool
    sounds: tuple[Sound, ...] = ()
    noise: bytes = b""
    """A noise below the sounds, from the start on."""
    echo: EchoPath | None = None
    misheard: str = ""
    """What the recognizer writes for a turn without any of the sounds' words."""

    def track(self) -> bytes:
        """Return the caller's side of the line as PCM, from the start of the case."""
        return mixing.mixed(mixing.silent(20), self.noise, *(mixing.delayed(s.pcm, s.at_ms) for s in self.sounds))

    def onset_ms(self) -> float | None:
        """Return when the first sound becomes loud, in ms from the start; None if there is only an echo."""
        first = min(self.sounds, key=lambda sound: sound.at_ms, default=Sound(0, self.noise))
        loud = (n for n, db in enumerate(mixing.blocks_db(first.pcm)) if db > LOUD_DB)
        return next((first.at_ms + n * mixing.BLOCK_MS for n in loud), None)

    def last_ms(self) -> float:
        """Return when the last sound begins."""
        return max((sound.at_ms for sound in self.sounds), default=0)

    def words(self, from_ms: float, until_ms: float) -> str:
        """Return what a recognizer makes of a turn between two moments of the case."""
        heard = [s.words for s in self.sounds if s.words and _overlap(s, from_ms, until_ms) > 0.5]
        return " ".join(heard) or self.misheard


def _overlap(sound: Sound, from_ms: float, until_ms: float) -> float:
    """Return the share of a sound that lies between two moments."""
    length = len(sound.pcm) / mixing.BYTES_PER_MS
    return (min(sound.at_ms + length, until_ms) - max(sound.at_ms, from_ms)) / length


@cache
def recording(name: str, db: float = VOICE_DB) -> bytes:
    """Return a recording as PCM at the level `db`."""
    return mixing.at_level(decode_ulaw(ulaw_of_wav((DATA / f"{name}.wav").read_bytes(), max_seconds=60)), db)


WORDS = {
    "mhm": "Mm-hmm.",
    "yes": "Yes.",
    "okay": "Okay.",
    "right": "Right, I see.",
    "stop": "Stop.",
    "hold-on": "No, hold on.",
    "wait": "Wait, stop. Actually, can we make it Friday?",
    "yes-but": "Yes, but I need it earlier than that.",
}
LINES = {
    "caller-0": "Hi, I would like to book an appointment for next Tuesday.",
    "caller-2": "Wait, stop. Actually, can we make it Wednesday instead?",
    "caller-4": "Please transfer me to a human agent.",
}
OPENING = "caller-3", "What are your opening hours on Saturday?"


def said(name: str, at_ms: int = 0, db: float = VOICE_DB) -> Sound:
    """Return a recording with its words."""
    return Sound(at_ms, recording(name, db), LINES.get(name) or WORDS[name.split("-", 1)[1]])


def length_ms(sound: Sound) -> int:
    """Return how long a sound lasts."""
    return len(sound.pcm) // mixing.BYTES_PER_MS


@cache
def babble(seed: int) -> bytes:
    """Return background talk in the recordings' voices."""
    names = (*LINES, *(f"{who}-{what}" for who in PEOPLE for what in ("wait", "yes-but")))
    return mixing.babble([recording(name) for name in names], NOISE_MS, seed)


NOISES: dict[str, Callable[[int], bytes]] = {
    "babble": babble,
    "keyboard": lambda seed: mixing.keyboard(NOISE_MS, seed),
    "road": lambda seed: mixing.road(NOISE_MS, seed),
}


@cache
def noise(kind: str, db: float, seed: int = 1) -> bytes:
    """Return a noise of a kind at a level; it fades in, as if it had been there before."""
    return mixing.faded(mixing.at_level(NOISES[kind](seed), db), 300)


def cases() -> list[Case]:
    """Return every case; those that the agent must ignore come first."""
    return [*_echoes(), *_noises(), *_throats(), *_back_channels(), *_interruptions(), *_hard_interruptions()]


def _echoes() -> Iterator[Case]:
    for delay_ms in (150, 250, 400):
        for loss_db in (20, 25, 30, 35):
            yield Case(
                group="echo",
                name=f"echo {delay_ms} ms, -{loss_db} dB",
                stop=False,
                echo=EchoPath(delay_ms, loss_db, room=loss_db == 25),
                misheard="a table by the window",
            )
    for kind in NOISES:
        yield Case(
            group="echo",
            name=f"echo 250 ms, -25 dB, {kind} -50 dB",
            stop=False,
            noise=noise(kind, -50),
            echo=EchoPath(250, 25),
            misheard="a table by the window",
        )


def _noises() -> Iterator[Case]:
    number = 0
    for kind, levels in {"babble": (-45, -40, -35, -30), "keyboard": (-40, -32, -25), "road": (-45, -35, -28)}.items():
        for db in levels:
            number += 1
            yield Case(
                group=kind,
                name=f"{kind} {db} dB",
                stop=False,
                noise=noise(kind, db, number),
                misheard=HALLUCINATED[number % len(HALLUCINATED)],
            )


def _throats() -> Iterator[Case]:
    for number, (bursts, db) in enumerate([(1, -20), (1, -30), (2, -20), (2, -26), (3, -18)]):
        pcm = mixing.at_level(mixing.cough(number, bursts=bursts), db)
        name, misheard = f"cough, {bursts} bursts, {db} dB", HALLUCINATED[number % len(HALLUCINATED)]
        yield Case(group="cough", name=name, stop=False, sounds=(Sound(0, pcm),), misheard=misheard)
    for number, db in enumerate((-25, -32, -40)):
        pcm = mixing.at_level(mixing.breath(number), db)
        yield Case(group="breath", name=f"breath {db} dB", stop=False, sounds=(Sound(0, pcm),))


def _back_channels() -> Iterator[Case]:
    for who in PEOPLE:
        for what in ("mhm", "yes", "okay", "right"):
            yield Case(group="back-channel", name=f"{what} ({who})", stop=False, sounds=(said(f"{who}-{what}"),))
    for who, what, kind in (("woman", "okay", "road"), ("man", "yes", "babble"), ("girl", "mhm", "keyboard")):
        name = f"{what} ({who}), {kind} -42 dB"
        sounds = (said(f"{who}-{what}"),)
        yield Case(group="back-channel", name=name, stop=False, sounds=sounds, noise=noise(kind, -42))
    yield Case(
        group="back-channel",
        name="okay (man), echo 250 ms, -30 dB",
        stop=False,
        sounds=(said("man-okay", 600),),
        echo=EchoPath(250, 30),
        misheard="a table by the window",
    )


def _interruptions() -> Iterator[Case]:
    lines = ["caller-2", "caller-4", "caller-0"]
    lines += [f"{who}-{what}" for who in PEOPLE for what in ("wait", "hold-on", "stop", "yes-but")]
    for name in lines:
        yield Case(group="interruption", name=name, stop=True, sounds=(said(name),))
    for db in (-28, -34):
        yield Case(group="interruption", name=f"caller-2, soft, {db} dB", stop=True, sounds=(said("caller-2", 0, db),))


def _hard_interruptions() -> Iterator[Case]:
    for kind, db in (("babble", -38), ("keyboard", -32), ("road", -35)):
        for name in ("caller-2", "girl-hold-on"):
            sounds = (said(name, 600),)
            yield Case(
                group="in noise", name=f"{name}, {kind} {db} dB", stop=True, sounds=sounds, noise=noise(kind, db)
            )
    for name, echo in (
        ("caller-2", EchoPath(150, 20)),
        ("woman-wait", EchoPath(250, 28)),
        ("man-stop", EchoPath(400, 22, True)),
    ):
        label = f"{name}, echo {echo.delay_ms} ms, -{echo.loss_db} dB"
        yield Case(group="with echo", name=label, stop=True, sounds=(said(name, 800),), echo=echo)
    for first, second in (
        ("man-stop", "man-yes-but"),
        ("girl-hold-on", "girl-wait"),
        ("woman-hold-on", "woman-yes-but"),
    ):
        yield Case(group="with a pause", name=f"{first}, {second}", stop=True, sounds=_two(first, 700, second))
    for first, second in (("woman-mhm", "woman-hold-on"), ("man-okay", "man-wait"), ("girl-yes", "girl-stop")):
        yield Case(group="after a back-channel", name=f"{first}, {second}", stop=True, sounds=_two(first, 900, second))


def _two(first: str, pause_ms: int, second: str) -> tuple[Sound, ...]:
    """Return two recordings with a pause between them."""
    begin = said(first)
    return begin, said(second, length_ms(begin) + pause_ms)
