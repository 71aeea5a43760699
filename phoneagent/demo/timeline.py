"""A picture of a call: two lanes of speech with the words, as an SVG for light and dark pages.

The call is laid out in rows of about twenty seconds, like staves of music; a row ends in a silence. In each row the
caller is above and the agent below. The time axis is between them, and shows the wait for each answer, and each pause
for a sound of the caller after which the agent went on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax import saxutils

from phoneagent.demo.report import Report, Turn, clock, plain, went_on
from phoneagent.events import Pause, ResumeCause
from phoneagent.protocol.audio import BYTES_PER_MS, rms

WIDTH = 1200
ROW_MS = 20_000
"""About how much of a call one row shows, in ms."""

_LEFT, _RIGHT = 84, 24
_WAVE = 26  # half the height of a lane's waveform, in px
_LINE = 16  # from one line of words to the next
_STRIP = 34  # between the lanes: time, and the waits
_CHAR = 6.7  # an upper estimate of a character's average width in 12.5 px text
_SMALL = 6.2  # the same in small text
_COLUMN = 2  # one bar of a waveform, in px

_CAUSES: dict[ResumeCause, str] = {"noise": "a noise", "backchannel": "a back-channel", "echo": "an echo"}

_STYLE = """
  svg { font: 12.5px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; }
  .small { font-size: 11px } .title { font-size: 15px; font-weight: 600 }
  .ink { paint-order: stroke; stroke-width: 3px; stroke-linejoin: round }
  .unheard { text-decoration: line-through; stroke: none }
  .ghost { fill-opacity: .08; stroke-opacity: .45; stroke-dasharray: 3 3 } .pill { fill-opacity: .1 }
  .pause { fill-opacity: .16 }
  .page { fill: #ffffff; stroke: #d0d7de } .ink { fill: #1f2328; stroke: #ffffff } .faint { fill: #656d76 }
  .rule { stroke: #d0d7de } .unheard { fill: #8c959f } .cut { fill: #cf222e } .cutline { stroke: #cf222e }
  .caller { fill: #1a7f64 } .agent { fill: #3b5bdb } .ghost { fill: #3b5bdb; stroke: #3b5bdb }
  .wait { stroke: #9a6700 } .waited, .pause { fill: #9a6700 }
  .tool { fill: #8250df } .toolline { stroke: #8250df } .pill { fill: #8250df; stroke: #8250df }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117; stroke: #30363d } .ink { fill: #e6edf3; stroke: #0d1117 } .faint { fill: #8b949e }
    .rule { stroke: #30363d } .unheard { fill: #6e7681 } .cut { fill: #ff7b72 } .cutline { stroke: #ff7b72 }
    .caller { fill: #3fb98f } .agent { fill: #7c95ff } .ghost { fill: #7c95ff; stroke: #7c95ff }
    .wait { stroke: #d29922 } .waited, .pause { fill: #d29922 }
    .tool { fill: #b795ff } .toolline { stroke: #b795ff } .pill { fill: #b795ff; stroke: #b795ff }
  }
"""


@dataclass(frozen=True, slots=True)
class Note:
    """A label for one moment of the call, like a tool call."""

    at_ms: float
    text: str


def draw(report: Report, *, caller: bytes, agent: bytes, tools: Sequence[Note] = ()) -> str:
    """Return the picture of a call as SVG text.

    `caller` and `agent` are µ-law from the start of the stream, on the same clock: what the caller said, and what they
    heard. Without this audio, turns are plain bars.
    """
    windows = rows(report.turns, report.duration_ms)
    scale = (WIDTH - _LEFT - _RIGHT) / max(end - start for start, end in windows)
    top = 64.0
    body = []
    for window in windows:
        row = _Row(report.turns, report.pauses, caller, agent, tools, window, scale, top)
        body += row.draw()
        top += row.height
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top:.0f}" '
    head += f'viewBox="0 0 {WIDTH} {top:.0f}" role="img" aria-label="Timeline of a telephone call">'
    page = f'<rect class="page" x=".5" y=".5" width="{WIDTH - 1}" height="{top - 1:.0f}" rx="8"/>'
    return "\n".join([head, f"<style>{_STYLE}</style>", page, *_heading(report), *body, "</svg>"]) + "\n"


def rows(turns: Sequence[Turn], duration_ms: float) -> list[tuple[float, float]]:
    """Cut a call into rows of about equal length, at silences if possible; each is (start, end) in ms."""
    duration_ms = max(duration_ms, 1.0)
    length = duration_ms / math.ceil(duration_ms / ROW_MS)
    ends, quiet_from = [0.0], 0.0
    pauses = []
    for turn in sorted(turns, key=lambda turn: turn.start_ms):
        if turn.start_ms > quiet_from:
            pauses.append((quiet_from + turn.start_ms) / 2)
        quiet_from = max(quiet_from, turn.end_ms)
    while duration_ms - ends[-1] > length * 1.25:
        wanted = ends[-1] + length
        near = [pause for pause in pauses if ends[-1] + length / 2 < pause <= wanted + length / 4]
        ends.append(min(near, key=lambda pause: abs(pause - wanted), default=wanted))
    ends.append(duration_ms)
    return list(itertools.pairwise(ends))


def wrap(heard: str, unheard: str, chars: int) -> list[tuple[str, str]]:
    """Break words into lines of at most `chars`; each line is its heard part and its unheard part."""
    lines: list[tuple[list[str], list[str]]] = [([], [])]
    used = 0
    words = [(word, True) for word in heard.split()] + [(word, False) for word in unheard.split()]
    for word, was_heard in words:
        if used and used + 1 + len(word) > chars:
            lines.append(([], []))
            used = 0
        lines[-1][0 if was_heard else 1].append(word)
        used += len(word) + bool(used)
    return [(" ".join(one), " ".join(two)) for one, two in lines if one or two]


def _heading(report: Report) -> list[str]:
    latency = report.latency_ms
    ended = {"agent": "ended by the agent", "caller": "ended by the caller", "": "not ended yet"}
    facts = [ended.get(report.ended_by, "the call failed")]
    if latency.response_p50 is not None:
        facts.append(f"answers after {latency.response_p50 / 1000:.2f} s (median)")
    for barge in report.barge_ins:
        told, truth = barge.audio_end_ms / 1000, barge.truth_heard_ms / 1000
        facts.append(f"interrupted: the model was told {told:.2f} s were heard, the caller heard {truth:.2f} s")
    if len(report.barge_ins) > 2:
        facts[2:] = [f"{len(report.barge_ins)} interruptions"]
    return [
        _text(_LEFT, 28, f"A call of {report.duration_ms / 1000:.1f} s", "ink title"),
        _text(_LEFT, 48, " · ".join(facts), "faint"),
    ]


class _Row:
    """One row: `window` of the call in ms, `scale` in px per ms, and its upper edge at `top`."""

    def __init__(
        self,
        turns: Sequence[Turn],
        pauses: Sequence[Pause],
        caller: bytes,
        agent: bytes,
        tools: Sequence[Note],
        window: tuple[float, float],
        scale: float,
        top: float,
    ) -> None:
        self._start, self._end = window
        self._scale = scale
        self._all = turns
        self._pauses = pauses
        self._labels: list[tuple[float, float]] = []  # where the strip has words, from and to
        self._turns = [turn for turn in turns if turn.start_ms < self._end and turn.end_ms >= self._start]
        self._tools = [tool for tool in tools if self._start <= tool.at_ms < self._end]
        self._tracks = {"caller": caller, "agent": agent}
        self._words = {role: list(self._lines(role)) for role in ("caller", "agent")}
        self._caller_y = top + 14 + self._depth("caller") * _LINE + _WAVE
        self._strip_y = self._caller_y + _WAVE + _STRIP / 2
        self._agent_y = self._strip_y + _STRIP / 2 + _WAVE
        self._pills_y = self._agent_y + _WAVE + 8 + self._depth("agent") * _LINE
        self.height = self._pills_y + len(self._tools) * 26 + 18 - top

    def draw(self) -> list[str]:
        return [
            *self._axis(),
            *self._ghosts(),
            *self._wave("caller", self._caller_y),
            *self._wave("agent", self._agent_y),
            *self._waits(),
            *self._gaps(),
            *self._cuts(),
            *self._pills(),
            *self._spoken(),
        ]

    def _x(self, ms: float) -> float:
        return _LEFT + (min(max(ms, self._start), self._end) - self._start) * self._scale

    def _depth(self, role: str) -> int:
        return max((len(lines) for _, lines in self._words[role]), default=0)

    def _lines(self, role: str) -> Iterator[tuple[float, list[tuple[str, str]]]]:
        """Yield each turn of a lane: its position, and its words wrapped to the space before the lane's next turn."""
        turns = [turn for turn in self._turns if turn.role == role and self._is_mine(turn)]
        for index, turn in enumerate(turns):
            x = self._x(turn.start_ms)
            until = self._x(turns[index + 1].start_ms) - 12 if index + 1 < len(turns) else WIDTH - _RIGHT
            heard = turn.heard_text if turn.interrupted else turn.text
            unheard = turn.text[len(turn.heard_text) :] if turn.interrupted else ""
            # A short turn just before the next one has no space for its words; the transcript has them.
            chars = int(min(until - x, 560) / _CHAR)
            longest = max((len(word) for word in turn.text.split()), default=0)
            yield x, wrap(heard, unheard, chars) if chars >= longest else []

    def _is_mine(self, turn: Turn) -> bool:
        """Return whether this row shows the turn's words: a turn over several rows has them where it begins."""
        return turn.start_ms >= self._start or self._start == 0

    def _axis(self) -> Iterator[str]:
        y = self._strip_y
        yield f'<line class="rule" x1="{_LEFT}" x2="{self._x(self._end):.1f}" y1="{y}" y2="{y}"/>'
        for role, lane in (("caller", self._caller_y), ("agent", self._agent_y)):
            yield _text(20, lane + 4, role, f"{role} title")
            yield f'<line class="rule" x1="{_LEFT}" x2="{self._x(self._end):.1f}" y1="{lane}" y2="{lane}"/>'
        for second in range(math.ceil(self._start / 1000), math.floor(self._end / 1000) + 1):
            x, tall = self._x(second * 1000), 5 if second % 5 == 0 else 2
            yield f'<line class="rule" x1="{x:.1f}" x2="{x:.1f}" y1="{y - tall}" y2="{y + tall}"/>'
            if second % 5 == 0 and x < WIDTH - _RIGHT - 20:
                yield _text(x + 3, y + 14, f"{second // 60}:{second % 60:02}", "faint small")

    def _wave(self, role: str, y: float) -> Iterator[str]:
        """Draw the envelope of one lane as a single path of bars, square-rooted so that soft speech is visible."""
        track, bars = self._tracks[role], []
        if not track:
            yield from self._bars(role, y)
            return
        step = _COLUMN / self._scale
        for column in range(int((self._end - self._start) / step)):
            first = int((self._start + column * step) * BYTES_PER_MS)
            piece = track[first : first + int(step * BYTES_PER_MS)]
            level = math.sqrt(rms(piece) / 8000) if piece else 0.0
            if level > 0.12:
                half = min(level, 1.0) * _WAVE
                bars.append(f"M{_LEFT + column * _COLUMN:.0f} {y - half:.1f}h1.4v{2 * half:.1f}h-1.4z")
        yield f'<path class="{role}" d="{"".join(bars)}"/>'

    def _bars(self, role: str, y: float) -> Iterator[str]:
        """Draw a bar for each turn of one lane, with a gap for each pause."""
        for turn in self._turns:
            gaps = [each for each in self._pauses if turn.start_ms < each.start_ms < turn.end_ms]
            edges = [turn.start_ms, *itertools.chain(*((each.start_ms, each.end_ms) for each in gaps)), turn.end_ms]
            for start, end in zip(edges[::2], edges[1::2], strict=True) if turn.role == role else ():
                x, width = self._x(start), self._x(end) - self._x(start)
                if width > 0:
                    yield f'<rect class="{role} bar" x="{x:.1f}" y="{y - 8}" width="{width:.1f}" height="16" rx="3"/>'

    def _gaps(self) -> Iterator[str]:
        """Mark each pause after which the agent went on: a band with a pause sign, and what it was for.

        If there is no space for the words, they are shorter, or only in the title, which the pointer shows.
        """
        for pause in self._pauses:
            x, width = self._x(pause.start_ms), self._x(pause.end_ms) - self._x(pause.start_ms)
            if width <= 0:
                continue
            words = f"paused {(pause.end_ms - pause.start_ms) / 1000:.1f} s for {_CAUSES[pause.cause]}"
            top, middle, sign = self._agent_y - _WAVE, x + width / 2, min(3.0, width / 5)
            yield f"<g><title>{words}, at {clock(pause.start_ms)}</title>"
            yield f'<rect class="pause" x="{x:.1f}" y="{top}" width="{width:.1f}" height="{2 * _WAVE}" rx="3"/>'
            for left in (middle - 1.5 * sign, middle + 0.5 * sign):
                yield f'<rect class="waited" x="{left:.1f}" y="{self._agent_y - 7}" width="{sign:.1f}" height="14"/>'
            yield "</g>"
            for label in (words, f"{(pause.end_ms - pause.start_ms) / 1000:.1f} s {pause.cause}"):
                left, right = x, x + len(label) * _SMALL
                if right < WIDTH - _RIGHT and not any(one < right and left < other for one, other in self._labels):
                    self._labels.append((left, right))
                    yield _text(left, self._strip_y - 5, label, "waited small")
                    break

    def _ghosts(self) -> Iterator[str]:
        """Draw what was said but never heard: a dashed block from the cut to the agent's next turn or the row's end."""
        for index, turn in enumerate(self._all):
            if turn.role != "agent" or not turn.interrupted:
                continue
            later = [other.start_ms for other in self._all[index + 1 :] if other.role == "agent"]
            start = turn.end_ms
            end = min([start + turn.said_ms - turn.heard_ms, *(other - 60 for other in later)])
            if not self._start <= start < self._end or end <= start:
                continue
            x, width = self._x(start), self._x(end) - self._x(start)
            y = self._agent_y - _WAVE
            yield f'<rect class="ghost" x="{x:.1f}" y="{y}" width="{width:.1f}" height="{2 * _WAVE}" rx="3"/>'
            lines = (f"heard {turn.heard_ms / 1000:.1f} s", f"of {turn.said_ms / 1000:.1f} s said")
            if width > len(lines[1]) * _CHAR + 8:
                yield from (_text(x + 7, y + 22 + n * 16, line, "cut small") for n, line in enumerate(lines))

    def _cuts(self) -> Iterator[str]:
        for turn in self._turns:
            if turn.role == "agent" and turn.interrupted and self._start <= turn.end_ms < self._end:
                x = self._x(turn.end_ms)
                y1, y2 = self._caller_y - _WAVE, self._agent_y + _WAVE
                yield (
                    f'<line class="cutline" x1="{x:.1f}" x2="{x:.1f}" y1="{y1}" y2="{y2}" stroke-dasharray="4 3">'
                    f"<title>interrupted at {clock(turn.end_ms)}</title></line>"
                )

    def _waits(self) -> Iterator[str]:
        """Mark the time from the end of each of the caller's turns to the agent's first sound after it."""
        for index, turn in enumerate(self._all):
            if turn.role != "caller" or went_on(turn.end_ms, self._pauses):
                continue
            following = next((other for other in self._all[index + 1 :] if other.start_ms >= turn.end_ms), None)
            if following is None or following.role != "agent" or not self._start <= turn.end_ms < self._end:
                continue
            x1, x2, y = self._x(turn.end_ms), self._x(following.start_ms), self._strip_y - 8
            yield f'<path class="wait" fill="none" d="M{x1:.1f} {y - 4}V{y}H{x2:.1f}V{y + 4}"/>'
            label = f"{(following.start_ms - turn.end_ms) / 1000:.2f} s"
            beside = x2 + 5 if x2 + 45 < WIDTH - _RIGHT else x1 - 42  # before it, if the row ends after it
            self._labels.append((beside, beside + len(label) * _SMALL))
            yield _text(beside, y + 3, label, "waited small")

    def _spoken(self) -> Iterator[str]:
        for role, words in self._words.items():
            for x, lines in words:
                y = self._agent_y + _WAVE + 18 if role == "agent" else self._caller_y - _WAVE - 8
                # The caller's words are above the waveform, the agent's below it.
                y -= (len(lines) - 1) * _LINE if role == "caller" else 0
                for number, (heard, unheard) in enumerate(lines):
                    gap = " " if heard and unheard else ""
                    cut = f'<tspan class="unheard">{_escaped(unheard)}</tspan>' if unheard else ""
                    begin = f'<text class="ink" x="{x:.1f}" y="{y + number * _LINE:.1f}">'
                    yield f"{begin}{_escaped(heard)}{gap}{cut}</text>"

    def _pills(self) -> Iterator[str]:
        """Draw a label for each tool call, one below the other, with a line up to the time axis."""
        for number, tool in enumerate(self._tools):
            text = tool.text if len(tool.text) <= 110 else tool.text[:109] + "…"
            width = len(text) * 7 + 24  # an upper estimate of a character's width in code
            at, y = self._x(tool.at_ms), self._pills_y + number * 26
            x = max(_LEFT, min(at - 12, WIDTH - _RIGHT - width))
            yield (
                f'<line class="toolline" x1="{at:.1f}" x2="{at:.1f}" y1="{self._strip_y}" y2="{y}" '
                f'stroke-dasharray="1 3"/>'
                f'<rect class="pill" x="{x:.1f}" y="{y}" width="{width:.1f}" height="21" rx="10"/>'
            )
            yield _text(x + 11, y + 15, text, "tool")


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{_escaped(text)}</text>'


def _escaped(text: str) -> str:
    return saxutils.escape(plain(text))
