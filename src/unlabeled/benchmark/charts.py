"""Charts as inline SVG: no script, no font, no file beside; colours come from the page's style sheet.

Every mark carries a title, every chart a title and a description for screen readers; series differ by shape and dash as
well as by colour.  Drawn by hand, a chart is 3-15 kB; a plotting library's script would add megabytes to each report.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from unlabeled.benchmark.statistics import Comparison
from unlabeled.benchmark.verdict import fraction_text, signed

SERIES = 7  # colours in the style sheet beside the baseline's; further series repeat them
_WIDTH, _HEIGHT = 520.0, 330.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 14.0, 14.0, 52.0
_DASHES = ("", "7 4", "2 4", "9 3 2 3", "12 4", "4 2", "1 3")


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart: points and, on demand, an interval at each."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    colour: int = 1  # 0 is the baseline's grey


@dataclass(frozen=True, slots=True)
class Curve:
    """A chart of lines over a numeric axis, such as a learning curve."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    note: str = ""


def colour_of(methods: Sequence[str]) -> dict[str, int]:
    """Give each method its colour, in order; the first is the baseline."""
    return {method: place and 1 + (place - 1) % SERIES for place, method in enumerate(methods)}


def line_chart(curve: Curve, name: str) -> Markup:
    """Draw lines; `name` makes the ids unique within the page."""
    across = _Axis.over((x for s in curve.series for x in s.x), _LEFT, _WIDTH - _RIGHT, 6)
    up = _Axis.over((y for s in curve.series for y in s.y), _HEIGHT - _BOTTOM, _TOP, 5)
    parts = [_frame(up, curve.y_label), _numbers_below(across, curve.x_label)]
    for number, series in enumerate(curve.series):
        points = " ".join(
            f"{across.at(x):.1f},{up.at(y):.1f}"
            for x, y in zip(series.x, series.y, strict=True)
            if math.isfinite(y)
        )
        dash = _DASHES[number % len(_DASHES)]
        parts.append(
            Markup(
                '<polyline class="line c{}" stroke-dasharray="{}" points="{}"><title>{}</title></polyline>'
            ).format(series.colour, dash, points, series.name)
        )
    about = (
        f"{curve.y_label} over {curve.x_label}; lines: {', '.join(s.name for s in curve.series)}."
    )
    return _svg(parts, name, curve.title, about)


def score_chart(comparison: Comparison, names: Mapping[str, str], name: str) -> Markup:
    """Draw mean and interval of every method over the label fractions, side by side at each."""
    fractions, methods = comparison.label_fractions, comparison.methods
    colours = colour_of(methods)
    ends = [v for c in comparison.cells for v in (c.score.mean, c.score.low, c.score.high)]
    up = _Axis.over(ends, _HEIGHT - _BOTTOM, _TOP, 5)
    room = (_WIDTH - _RIGHT - _LEFT) / len(fractions)
    parts = [_frame(up, comparison.metric)]
    for place, fraction in enumerate(fractions):
        middle = _LEFT + room * (place + 0.5)
        tick = fraction_text(fraction).partition(" label")[0].removesuffix(" of the")
        parts.append(_text(middle, _HEIGHT - _BOTTOM + 22, tick, "middle"))
    counted = all(isinstance(fraction, int) for fraction in fractions)
    labels = f"{'labelled subjects' if counted else 'share of the labels'} used for fine-tuning"
    parts.append(_text((_LEFT + _WIDTH) / 2, _HEIGHT - 10, labels, "middle", "axis"))
    for number, method in enumerate(methods):
        step = min(22.0, 0.7 * room / max(len(methods), 1))
        shift = step * (number - (len(methods) - 1) / 2)
        spots = []
        for place, fraction in enumerate(fractions):
            cell = comparison.cell(method, fraction)
            if cell is None:
                continue
            x, score = _LEFT + room * (place + 0.5) + shift, cell.score
            spots.append(f"{x:.1f},{up.at(score.mean):.1f}")
            about = (
                f"{names.get(method, method)}, {fraction_text(fraction)}: {score.mean:.3f} "
                f"(95 % interval {score.low:.3f} to {score.high:.3f})"
            )
            parts.append(_whisker(x, up, score.low, score.high, colours[method]))
            parts.append(_mark(x, up.at(score.mean), number, colours[method], about))
        line = Markup('<polyline class="line thin c{}" stroke-dasharray="{}" points="{}"/>')
        parts.insert(
            1, line.format(colours[method], _DASHES[number % len(_DASHES)], " ".join(spots))
        )
    about = f"{comparison.metric} of each method over the label fractions; the table below holds the same numbers."
    return _svg(parts, name, f"{comparison.metric} by method and label fraction", about)


def difference_chart(comparison: Comparison, names: Mapping[str, str], name: str) -> Markup:
    """Draw the paired differences to the baseline with their intervals about zero, one row each."""
    tested = [(cell, cell.difference) for cell in comparison.cells if cell.difference]
    colours, order = colour_of(comparison.methods), comparison.methods
    row = 46.0
    height = _TOP + _BOTTOM + row * max(len(tested), 1)
    bounds = [v for _, d in tested for v in (d.interval.low, d.interval.high)]
    across = _Axis.over([0.0, *bounds], 24.0, _WIDTH - 24.0, 5)
    foot = height - _BOTTOM
    parts = [
        Markup('<line class="{}" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{:.1f}"/>').format(
            "zero" if tick == 0 else "grid", across.at(tick), across.at(tick), _TOP, foot
        )
        for tick in across.ticks
    ]
    for tick in across.ticks:
        text = "0" if tick == 0 else f"{tick:+g}".replace("-", "\N{MINUS SIGN}")
        parts.append(_text(across.at(tick), foot + 20, text, "middle"))
    side = "right" if comparison.higher_is_better else "left"
    label = f"difference in {comparison.metric} to {comparison.baseline} (better: {side})"
    parts.append(_text(_WIDTH / 2, foot + 42, label, "middle", "axis"))
    for place, (cell, difference) in enumerate(tested):
        y, interval = _TOP + row * (place + 0.68), difference.interval
        title = f"{names.get(cell.method, cell.method)}, {fraction_text(cell.label_fraction)}"
        about = f"{title}: {signed(interval.mean)} (95 % interval {signed(interval.low)} to {signed(interval.high)})"
        parts.append(_text(10.0, y - 14, title, "start"))
        low, high = across.at(interval.low), across.at(interval.high)
        line = Markup('<line class="whisker c{}" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>')
        parts.append(line.format(colours[cell.method], low, high, y, y))
        number = order.index(cell.method)
        parts.append(_mark(across.at(interval.mean), y, number, colours[cell.method], about))
    return _svg(
        parts,
        name,
        "Paired differences",
        f"{label}; the table below holds the same numbers.",
        height,
    )


def legend(names: Sequence[str], colours: Sequence[int], *, marks: bool) -> Markup:
    """Draw the key of a chart as a list."""
    items = []
    for number, (name, colour) in enumerate(zip(names, colours, strict=True)):
        dash = _DASHES[number % len(_DASHES)]
        line = Markup('<line class="line c{}" x1="1" x2="33" y1="8" y2="8" stroke-dasharray="{}"/>')
        drawn = line.format(colour, dash) + (
            _mark(17, 8, number, colour, "") if marks else Markup()
        )
        key = Markup('<svg class="key" viewBox="0 0 34 16" aria-hidden="true">{}</svg>').format(
            drawn
        )
        items.append(Markup("<li>{}{}</li>").format(key, name))
    return Markup('<ul class="legend">{}</ul>').format(Markup().join(items))


@dataclass(frozen=True, slots=True)
class _Axis:
    """A linear axis: values to pixels, with round ticks."""

    low: float
    high: float
    start: float
    stop: float
    ticks: tuple[float, ...]

    @classmethod
    def over(cls, values: Iterable[float], start: float, stop: float, count: int) -> _Axis:
        finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        low, high = min(finite), max(finite)
        if high - low < 1e-12:
            low, high = low - 0.5, high + 0.5
        rough = (high - low) / count
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= rough * (1 - 1e-9))
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        ticks = tuple(round(step * i, 12) + 0.0 for i in range(first, last + 1))
        return cls(ticks[0], ticks[-1], start, stop, ticks)

    def at(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        return self.start + (inside - self.low) / (self.high - self.low) * (self.stop - self.start)


def _frame(up: _Axis, label: str) -> Markup:
    parts = []
    for tick in up.ticks:
        y = up.at(tick)
        line = Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>')
        parts += [
            line.format(_LEFT, _WIDTH - _RIGHT, y, y),
            _text(_LEFT - 8, y + 4.5, f"{tick:g}", "end"),
        ]
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    turned = Markup(
        '<text class="axis" text-anchor="middle" transform="translate(15 {:.1f}) rotate(-90)">{}</text>'
    )
    return Markup().join([*parts, turned.format(middle, label)])


def _numbers_below(across: _Axis, label: str) -> Markup:
    foot = _HEIGHT - _BOTTOM
    parts = [_text(across.at(tick), foot + 20, f"{tick:g}", "middle") for tick in across.ticks]
    return Markup().join([*parts, _text((_LEFT + _WIDTH) / 2, foot + 42, label, "middle", "axis")])


def _whisker(x: float, up: _Axis, low: float, high: float, colour: int) -> Markup:
    line = Markup('<line class="whisker c{}" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>')
    return line.format(colour, x, x, up.at(low), up.at(high))


def _mark(x: float, y: float, shape: int, colour: int, about: str) -> Markup:
    """Draw a circle, square, diamond or triangle, so that colour is not the only difference."""
    corners = (
        None,
        ((-5, -5), (5, -5), (5, 5), (-5, 5)),
        ((0, -7), (7, 0), (0, 7), (-7, 0)),
        ((0, -7), (6.5, 5), (-6.5, 5)),
    )[shape % 4]
    title = Markup("<title>{}</title>").format(about) if about else Markup()
    if corners is None:
        return Markup(
            '<circle class="mark c{}" cx="{:.1f}" cy="{:.1f}" r="5.5">{}</circle>'
        ).format(colour, x, y, title)
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return Markup('<polygon class="mark c{}" points="{}">{}</polygon>').format(
        colour, points, title
    )


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> Markup:
    made = Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
    return made.format(kind, x, y, anchor, text)


def _svg(
    parts: Sequence[Markup], name: str, title: str, about: str, height: float = _HEIGHT
) -> Markup:
    made = Markup(
        '<svg class="chart" viewBox="0 0 {:.0f} {:.0f}" role="img" aria-labelledby="{}-title {}-about">'
        '<title id="{}-title">{}</title><desc id="{}-about">{}</desc>{}</svg>'
    )
    where = escape(name)
    return made.format(
        _WIDTH, height, where, where, where, title, where, about, Markup().join(parts)
    )
