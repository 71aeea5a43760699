"""The clips that the package ships: the lines of the demo's two calls, the app's apologies, and its filler.

    pip install 'phoneagent[demo]' && python -m phoneagent.demo.render_clips

The same versions on the same kind of machine give the same bytes. Each clip is printed with what the recognizer heard
in it and the share of words that it got wrong, so that an unintelligible clip is noticed before it is shipped.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from phoneagent.demo.stories import RESTAURANT, VISITOR
from phoneagent.protocol.audio import decode_ulaw, encode_ulaw, silence, tone
from phoneagent.sim.model.script import Script
from phoneagent.sim.recogniser import MoonshineEar
from phoneagent.sim.speech import Voice, agent_voice, caller_voice, normalised

PACKAGE = Path(__file__).resolve().parent.parent
DELAY = "I'm sorry, this is taking longer than usual. One moment, please."
"""What is said when an answer takes long."""
APOLOGY = "I'm sorry, something went wrong on our side. Please call again in a few minutes. Goodbye."
BOOKED = "Booked for 4 at 19:30, reference 41."
"""What the restaurant's tool returns in the built-in call."""


def agent_lines(*scripts: Script) -> list[str]:
    """Return everything that the agent says in these scripts, each line once."""
    lines = [line for script in scripts for line in (script.greeting, script.default, script.goodbye)]
    for script in scripts:
        for turn in script.turns:
            lines += [line.replace("{output}", BOOKED) for line in (*turn.say, *turn.then)]
    return list(dict.fromkeys(lines))


def caller_lines(*scripts: Script) -> list[str]:
    """Return everything that the caller says in these scripts, each line once."""
    return list(dict.fromkeys(turn.caller for script in scripts for turn in script.turns if turn.caller))


def render(folder: Path, voice: Voice, lines: list[str]) -> None:
    """Write a clip of each line, and the index, into `folder`; delete all other clips there."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.ulaw"):
        old.unlink()
    index = {}
    for line in lines:
        words = normalised(line)
        index[words] = "-".join(words.split()[:6]) + ".ulaw"
        (folder / index[words]).write_bytes(voice.render(line))
    if len(set(index.values())) < len(index):
        raise ValueError(f"two lines for {folder.name} begin with the same six words; change one of them")
    (folder / "index.json").write_text(json.dumps(index, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def filler() -> bytes:
    """Return the sound that fills a silence: two soft notes that fade out, which mean the same in every language."""
    return faded(tone(523.25, 160, level=0.12)) + silence(60) + faded(tone(659.25, 380, level=0.12))


def faded(ulaw: bytes) -> bytes:
    """Return the sound with a soft beginning and a fade to its end."""
    pcm, soft = decode_ulaw(ulaw), 80
    count = len(pcm) // 2
    levels = (min(1.0, n / soft) * (1 - n / count) for n in range(count))
    samples = (
        round(int.from_bytes(pcm[2 * n : 2 * n + 2], "little", signed=True) * level) for n, level in enumerate(levels)
    )
    return encode_ulaw(b"".join(sample.to_bytes(2, "little", signed=True) for sample in samples))


def word_errors(said: str, heard: str) -> float:
    """Return the word error rate: how many words differ between `said` and `heard`, as a share of `said`."""
    want, got = normalised(said).split(), normalised(heard).split()
    row = list(range(len(got) + 1))
    for i, word in enumerate(want, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(got, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1] / max(len(want), 1)


async def report(name: str, clips: dict[str, Path]) -> None:
    """Print what the recognizer hears in each of `clips`, by line."""
    recogniser = MoonshineEar(limit_seconds=30)
    for line, path in clips.items():
        ulaw = path.read_bytes()
        heard = await recogniser.hear(ulaw)
        print(f"{name:7} {len(ulaw) / 8000:5.1f} s {word_errors(line, heard):4.0%}  {line}\n{'':21}{heard}")


def main() -> None:
    """Render everything, and print what the recognizer heard."""
    scripts = (RESTAURANT.script(), VISITOR.script())
    for name, voice, lines in (
        ("agent", agent_voice(), agent_lines(*scripts)),
        ("caller", caller_voice(), caller_lines(*scripts)),
    ):
        folder = PACKAGE / "demo" / "clips" / name
        render(folder, voice, lines)
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        asyncio.run(report(name, {line: folder / index[normalised(line)] for line in lines}))
    (PACKAGE / "calls" / "filler.ulaw").write_bytes(filler())
    for name, line in (("delay", DELAY), ("apology", APOLOGY)):
        clip = PACKAGE / "calls" / f"{name}.ulaw"
        clip.write_bytes(agent_voice().render(line))
        asyncio.run(report(name, {line: clip}))


if __name__ == "__main__":
    main()
