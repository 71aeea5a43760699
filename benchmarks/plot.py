"""A plot of the added latency against the number of calls, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from benchmarks.results import Result

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 30, 60, 60
COLORS = ("#1f6feb", "#c4441c", "#2e8b57", "#7a4fbf")
FONT = 'font-family="sans-serif" font-size="13"'


def draw(results: Sequence[Result], limit_ms: float) -> str:
    """Return an SVG of each bridge's p99 (p50 is dashed) over its calls, on a log scale, with a line at the limit."""
    series = [(each.bridge, _points(each)) for each in results]
    points = [point for _, some in series for point in some]
    most = max([calls for calls, _, _ in points], default=1)
    low = 10 ** math.floor(math.log10(min([p50 for _, p50, _ in points], default=0.1)))
    high = 10 ** math.ceil(math.log10(max([p99 for _, _, p99 in points], default=1.0) * 1.01))
    high = max(high, 10 ** math.ceil(math.log10(limit_ms)))
    scale = _Scale(most, low, high)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" {FONT}>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="16">Latency that the bridge adds, the worse of both directions</text>',
        *scale.axes(),
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{scale.y(limit_ms):.1f}" y2="{scale.y(limit_ms):.1f}" '
        f'stroke="#888" stroke-dasharray="2 3"/>',
        f'<text x="{LEFT + 8}" y="{scale.y(limit_ms) - 5:.1f}" fill="#666">{limit_ms:g} ms: one frame</text>',
    ]
    for index, (name, some) in enumerate(series):
        color = COLORS[index % len(COLORS)]
        parts += [
            _line([(scale.x(calls), scale.y(p99)) for calls, _, p99 in some], color, ""),
            _line([(scale.x(calls), scale.y(p50)) for calls, p50, _ in some], color, ' stroke-dasharray="6 4"'),
            *(
                f'<circle cx="{scale.x(calls):.1f}" cy="{scale.y(p99):.1f}" r="3" fill="{color}"/>'
                for calls, _, p99 in some
            ),
            f'<text x="{LEFT + index * 220}" y="46" fill="{color}">{escape(name)}: p99, dashed p50</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _points(result: Result) -> list[tuple[int, float, float]]:
    """Return calls, p50 and p99 of each window, ordered by calls; the last one of several with the same calls."""
    found = {}
    for window in result.windows:
        sides = (window.to_model.latency, window.to_caller.latency)
        if all(side.count for side in sides):
            found[window.calls] = (max(side.p50 for side in sides), max(side.p99 for side in sides))
    return [(calls, *found[calls]) for calls in sorted(found)]


class _Scale:
    """Positions on the plot: calls from 0 on, and milliseconds by their logarithm."""

    def __init__(self, most: int, low: float, high: float) -> None:
        self._most, self._low, self._high = most, low, high

    def x(self, calls: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * calls / self._most

    def y(self, milliseconds: float) -> float:
        share = math.log(milliseconds / self._low) / math.log(self._high / self._low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    def axes(self) -> list[str]:
        """Return the lines and labels of both axes."""
        parts, tick = [], self._low
        while tick <= self._high * 1.001:
            at = self.y(tick)
            parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>')
            parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{tick:g} ms</text>')
            tick *= 10
        step = _step(self._most)
        for calls in range(0, self._most + 1, step):
            at, foot = self.x(calls), HEIGHT - BOTTOM
            parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{foot}" y2="{foot + 5}" stroke="#888"/>')
            parts.append(f'<text x="{at:.1f}" y="{foot + 20}" text-anchor="middle">{calls}</text>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 14}" text-anchor="middle">calls at once</text>')
        return parts


def _step(most: int) -> int:
    """Return a round distance between ticks, for at most ten of them."""
    size = int(10 ** max(0, math.floor(math.log10(most)) - 1))
    return next(step for step in (size, 2 * size, 5 * size, 10 * size, 20 * size) if most / step <= 10)


def _line(points: Sequence[tuple[float, float]], color: str, style: str) -> str:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{places}" fill="none" stroke="{color}" stroke-width="2"{style}/>'
