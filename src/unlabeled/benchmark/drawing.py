"""The pieces of a chart: axes with round ticks, marks of several shapes, text, and the frame around them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 520.0, 340.0
LEFT, RIGHT, TOP, BOTTOM = 74.0, 14.0, 14.0, 70.0
SHORT = 54.0  # room below a chart whose axis has one line of labels


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear axis: values to pixels, with round ticks."""

    low: float
    high: float
    start: float
    stop: float
    ticks: tuple[float, ...]

    @classmethod
    def over(cls, values: Iterable[float], start: float, stop: float, count: int) -> Axis:
        """Make an axis that holds all values, with about `count` ticks, from one place [pixel] to another."""
        finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        low, high = min(finite), max(finite)
        if high - low <= 1e-9 * max(abs(low), abs(high)):
            half = 0.5 * abs(high) or 0.5  # one value alone: an axis of its own size about it
            low, high = low - half, high + half
        rough = (high - low) / count
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= rough * (1 - 1e-9))
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        digits = max(0, 2 - math.floor(math.log10(step)))
        ticks = tuple(round(step * i, digits) + 0.0 for i in range(first, last + 1))
        return cls(ticks[0], ticks[-1], start, stop, ticks)

    def at(self, value: float) -> float:
        """Place a value [pixel]; one beyond the axis, as an infinite bound, at its end."""
        inside = min(max(value, self.low), self.high)
        return self.start + (inside - self.low) / (self.high - self.low) * (self.stop - self.start)


def draw_frame(up: Axis, label: str) -> Markup:
    """Draw the lines and numbers of an upright axis, with its label."""
    parts = []
    for tick in up.ticks:
        y = up.at(tick)
        line = Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>')
        parts += [
            line.format(LEFT, WIDTH - RIGHT, y, y),
            draw_text(LEFT - 8, y + 4.5, f"{tick:g}".replace("-", "\N{MINUS SIGN}"), "end"),
        ]
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = Markup(
        '<text class="axis" text-anchor="middle" transform="translate(17 {:.1f}) rotate(-90)">{}</text>'
    )
    return Markup().join([*parts, turned.format(middle, label)])


def numbers_below(across: Axis, label: str) -> Markup:
    """Write the numbers of a level axis, with its label."""
    foot = HEIGHT - BOTTOM
    parts = [
        draw_text(
            across.at(tick),
            foot + 20,
            f"{tick:g}",
            "end" if across.at(tick) > WIDTH - RIGHT - 12 else "middle",
        )
        for tick in across.ticks
    ]
    return Markup().join(
        [*parts, draw_text((LEFT + WIDTH) / 2, HEIGHT - 8, label, "middle", "axis")]
    )


def draw_mark(x: float, y: float, shape: int, colour: int, size: float = 1.0) -> Markup:
    """Draw a circle, square, diamond or triangle, so that colour is not the only difference."""
    corners = (
        None,
        ((-5, -5), (5, -5), (5, 5), (-5, 5)),
        ((0, -7), (7, 0), (0, 7), (-7, 0)),
        ((0, -7), (6.5, 5), (-6.5, 5)),
    )[shape % 4]
    if corners is None:
        made = Markup('<circle class="mark c{}" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"/>')
        return made.format(colour, x, y, 5.5 * size)
    points = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in corners)
    return Markup('<polygon class="mark c{}" points="{}"/>').format(colour, points)


def draw_text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> Markup:
    """Write a text at a place [pixel]; `kind` is its class in the style sheet."""
    made = Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
    return made.format(kind, x, y, anchor, text)


def draw_chart(
    parts: Sequence[Markup],
    name: str,
    title: str,
    about: str,
    height: float = HEIGHT,
    kind: str = "",
) -> Markup:
    """Put a chart together: `name` makes its ids unique, title and description are for screen readers."""
    made = Markup(
        '<svg class="chart {}" viewBox="0 0 {:.0f} {:.0f}" role="img" aria-labelledby="{}-title {}-about">'
        '<title id="{}-title">{}</title><desc id="{}-about">{}</desc>{}</svg>'
    )
    where = escape(name)
    return made.format(
        kind, WIDTH, height, where, where, where, title, where, about, Markup().join(parts)
    )
