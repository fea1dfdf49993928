"""Charts as inline SVG: drawn whole without any script; colours come from the page's style sheet.

Every mark carries a title, every chart a title and a description for screen readers; series differ by shape and dash as
well as by colour.  The page's script finds in the attributes ``data-*`` what it shows and moves: the text of a mark, its
method, and its places on both kinds of axis.  Drawn by hand, a chart is 3-15 kB; a plotting library's script would add
megabytes to each report.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from unlabeled.benchmark.drawing import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    SHORT,
    TOP,
    WIDTH,
    Axis,
    draw_chart,
    draw_frame,
    draw_mark,
    draw_text,
    numbers_below,
)
from unlabeled.benchmark.numbers import number_text
from unlabeled.benchmark.statistics import Cell, Comparison, Fraction
from unlabeled.benchmark.verdict import fraction_text, signed

SERIES = 7  # colours in the style sheet beside the baseline's; further series repeat them
_DASHES = ("", "7 4", "2 4", "9 3 2 3", "12 4", "4 2", "1 3")
_TICK_ROOM = 40.0  # least distance of two labels on the logarithmic axis


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart: points and, on demand, a range about each; `method` where it can be filtered by."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    colour: int = 1  # 0 is the baseline's grey
    method: str = ""


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


def in_order(fractions: Iterable[Fraction], counts: Mapping[Fraction, int]) -> tuple[Fraction, ...]:
    """Order label fractions from few labels to many, each once; a share of unknown size comes after all numbers.

    >>> in_order([1.0, 5, 2], {1.0: 114})
    (2, 5, 1.0)
    """

    def size(fraction: Fraction) -> tuple[bool, float]:
        known = fraction in counts or isinstance(fraction, int)
        return not known, float(counts.get(fraction, fraction))

    return tuple(sorted(dict.fromkeys(fractions), key=size))


def line_chart(curve: Curve, name: str) -> Markup:
    """Draw lines; `name` makes the ids unique within the page."""
    across = Axis.over((x for s in curve.series for x in s.x), LEFT, WIDTH - RIGHT, 6)
    ends = (v for s in curve.series for v in (*s.y, *s.low, *s.high))
    up = Axis.over(ends, HEIGHT - BOTTOM, TOP, 5)
    parts = [draw_frame(up, curve.y_label), numbers_below(across, curve.x_label)]
    for number, series in enumerate(curve.series):
        kept = [place for place, y in enumerate(series.y) if math.isfinite(y)]
        band = Markup()
        if series.low and len(kept) > 1:
            there = [(series.x[i], series.high[i]) for i in kept]
            back = [(series.x[i], series.low[i]) for i in reversed(kept)]
            edge = " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for x, y in there + back)
            band = Markup('<polygon class="band c{}" points="{}"/>').format(series.colour, edge)
        spots = [(across.at(series.x[i]), up.at(series.y[i])) for i in kept]
        values = " ".join(f"{series.x[i]:g},{series.y[i]:.6g}" for i in kept)
        line = Markup(
            '<polyline class="line c{}" stroke-dasharray="{}" points="{}" data-v="{}"/>'
        ).format(
            series.colour,
            _DASHES[number % len(_DASHES)],
            " ".join(f"{x:.1f},{y:.1f}" for x, y in spots),
            values,
        )
        dot = Markup()
        if len(spots) == 1:  # a line of one point would not be seen
            dot = draw_mark(*spots[0], number, series.colour)
        parts.append(
            Markup('<g class="series" data-method="{}"><title>{}</title>{}{}{}</g>').format(
                series.method, series.name, band, line, dot
            )
        )
    about = (
        f"{curve.y_label} over {curve.x_label}; lines: {', '.join(s.name for s in curve.series)}. "
        "The table under the chart holds the numbers."
    )
    return draw_chart(parts, name, curve.title, about, kind="lines")


def score_chart(
    comparison: Comparison,
    names: Mapping[str, str],
    name: str,
    label: str = "",
    counts: Mapping[Fraction, int] | None = None,
) -> Markup:
    """Draw mean and interval of every method over the label fractions.

    Parameters
    ----------
    comparison
        What to draw.
    names
        Names of methods by slug.
    name
        Makes the ids unique within the page.
    label
        Of the upright axis; the metric when empty.
    counts
        Labelled subjects of each fraction; with them (or with shares alone) the page can show a logarithmic axis.
    """
    counts = counts or {}
    fractions = in_order(comparison.label_fractions, counts)
    methods = comparison.methods
    colours = colour_of(methods)
    ends = [v for c in comparison.cells for v in (c.score.mean, c.score.low, c.score.high)]
    up = Axis.over(ends, HEIGHT - BOTTOM, TOP, 5)
    room = (WIDTH - RIGHT - LEFT) / max(len(fractions), 1)
    by_place = {f: LEFT + room * (place + 0.5) for place, f in enumerate(fractions)}
    by_log = _logarithmic(fractions, counts)
    parts = [
        draw_frame(up, label or comparison.metric),
        _fractions_below(by_place, counts, "by-place"),
    ]
    if by_log:
        parts.append(_fractions_below(by_log, counts, "by-log off"))
    counted = any(isinstance(fraction, int) for fraction in fractions) or bool(counts)
    told = f"{'labelled subjects' if counted else 'share of the labels'} used for fine-tuning"
    parts.append(draw_text((LEFT + WIDTH) / 2, HEIGHT - 7, told, "middle", "axis"))
    step = min(22.0, 0.7 * room / max(len(methods), 1))
    near = min(step, 7.0)  # on the logarithmic axis, where points stand closer
    size = min(1.0, max(0.6, step / 11))
    lines, points = [], []
    for number, method in enumerate(methods):
        aside = number - (len(methods) - 1) / 2
        spots: list[tuple[float, float, float]] = []
        for fraction in fractions:
            cell = comparison.cell(method, fraction)
            if cell is None:
                continue
            x = by_place[fraction] + step * aside
            other = by_log[fraction] + near * aside if by_log else x
            y = up.at(cell.score.mean)
            spots.append((x, other, y))
            told = _about(cell, names)
            points.append(_point(cell, (x, other), y, up, number, colours[method], told, size))
        where = [" ".join(f"{x:.1f},{s[2]:.1f}" for s in spots for x in (s[k],)) for k in (0, 1)]
        lines.append(
            Markup(
                '<polyline class="line thin c{}" stroke-dasharray="{}" data-method="{}" '
                'points="{}" data-log="{}"/>'
            ).format(colours[method], _DASHES[number % len(_DASHES)], method, *where)
        )
    title = f"{label or comparison.metric} by method and label fraction"
    about = f"{title}, with 95 % intervals; the table below holds the same numbers."
    return draw_chart([*parts, *lines, *points], name, title, about, kind="scores")


def difference_chart(
    comparison: Comparison,
    names: Mapping[str, str],
    name: str,
    label: str = "",
    counts: Mapping[Fraction, int] | None = None,
) -> Markup:
    """Draw the paired differences to the baseline with their intervals about zero, a row each, by label fraction."""
    order_of = in_order(comparison.label_fractions, counts or {})
    tested = sorted(
        ((cell, cell.difference) for cell in comparison.cells if cell.difference),
        key=lambda pair: order_of.index(pair[0].label_fraction),
    )
    groups = len({cell.label_fraction for cell, _ in tested})
    colours, order = colour_of(comparison.methods), comparison.methods
    row, heading = 36.0, 38.0
    height = TOP + SHORT + row * max(len(tested), 1) + heading * groups
    bounds = [v for _, d in tested for v in (d.interval.mean, d.interval.low, d.interval.high)]
    across = Axis.over([0.0, *bounds], 24.0, WIDTH - 24.0, 5)
    foot = height - SHORT
    parts = [
        Markup('<line class="{}" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{:.1f}"/>').format(
            "zero" if tick == 0 else "grid", across.at(tick), across.at(tick), TOP, foot
        )
        for tick in across.ticks
    ]
    for tick in across.ticks:
        text = "0" if tick == 0 else f"{tick:+g}".replace("-", "\N{MINUS SIGN}")
        anchor = {across.ticks[0]: "start", across.ticks[-1]: "end"}.get(tick, "middle")
        edge = {"start": 2.0, "end": WIDTH - 2.0}.get(anchor, across.at(tick))
        parts.append(draw_text(edge, foot + 20, text, anchor))
    side = "right" if comparison.higher_is_better else "left"
    parts.append(draw_text(WIDTH / 2, foot + 44, f"better: {side} of 0", "middle", "axis"))
    y, last = TOP, None
    for cell, difference in tested:
        if cell.label_fraction != last:
            y, last = y + heading, cell.label_fraction
            parts.append(draw_text(10.0, y - 8, fraction_text(last), "start", "axis group"))
        y, interval = y + row, difference.interval
        shown = names.get(cell.method, cell.method)
        about = (
            f"{shown}, {fraction_text(cell.label_fraction)}: {signed(interval.mean)} "
            f"(95 % interval {signed(interval.low)} to {signed(interval.high)})"
        )
        low, high = across.at(interval.low), across.at(interval.high)
        number, colour, x = order.index(cell.method), colours[cell.method], across.at(interval.mean)
        whisker = Markup(
            '<line class="whisker c{}" x1="{:.1f}" x2="{:.1f}" y1="0" y2="0"/>'
        ).format(colour, low - x, high - x)
        parts.append(
            Markup(
                '<g class="row" data-method="{}">{}<g class="point" data-method="{}" '
                'transform="translate({:.1f} {:.1f})"><title>{}</title>{}{}</g></g>'
            ).format(
                cell.method,
                draw_text(10.0, y - 15, shown, "start"),
                cell.method,
                x,
                y - 5,
                about,
                whisker,
                draw_mark(0, 0, number, colour),
            )
        )
    title = f"Difference in {label or comparison.metric} to {comparison.baseline}"
    about = f"{title}, paired, with 95 % intervals; better: {side} of 0. The table below holds the same numbers."
    return draw_chart(parts, name, title, about, height, kind="differences")


def legend(names: Mapping[str, str], colours: Sequence[int], *, marks: bool) -> Markup:
    """Draw the key of a chart as a list: names by method."""
    items = []
    for number, ((method, name), colour) in enumerate(zip(names.items(), colours, strict=True)):
        dash = _DASHES[number % len(_DASHES)]
        line = Markup('<line class="line c{}" x1="1" x2="33" y1="8" y2="8" stroke-dasharray="{}"/>')
        drawn = line.format(colour, dash) + (
            draw_mark(17, 8, number, colour) if marks else Markup()
        )
        key = Markup('<svg class="key" viewBox="0 0 34 16" aria-hidden="true">{}</svg>').format(
            drawn
        )
        items.append(Markup('<li data-method="{}">{}{}</li>').format(method, key, name))
    return Markup('<ul class="legend">{}</ul>').format(Markup().join(items)) if items else Markup()


def _logarithmic(
    fractions: Sequence[Fraction], counts: Mapping[Fraction, int]
) -> dict[Fraction, float]:
    """Place label fractions by the logarithm of their number of subjects, or of their share; empty where neither is known."""
    if all(f in counts or isinstance(f, int) for f in fractions):
        sizes = {f: float(counts.get(f, f)) for f in fractions}
    elif all(isinstance(f, float) for f in fractions):
        sizes = {f: float(f) for f in fractions}
    else:
        return {}
    if len(set(sizes.values())) < 2 or min(sizes.values()) <= 0:
        return {}
    low, high = math.log(min(sizes.values())), math.log(max(sizes.values()))
    start, stop = LEFT + 44.0, WIDTH - RIGHT - 44.0
    return {
        f: start + (math.log(s) - low) / (high - low) * (stop - start) for f, s in sizes.items()
    }


def _fractions_below(
    places: Mapping[Fraction, float], counts: Mapping[Fraction, int], kind: str
) -> Markup:
    """Write the label fractions under the axis, a share's number of subjects below it."""
    foot, parts, last = HEIGHT - BOTTOM, [], -math.inf
    for fraction, x in sorted(places.items(), key=lambda pair: pair[1]):
        if x - last < _TICK_ROOM:
            continue
        last = x
        text = f"{fraction}" if isinstance(fraction, int) else f"{100 * fraction:.3g} %"
        parts.append(draw_text(x, foot + 20, "all" if text == "100 %" else text, "middle"))
        if not isinstance(fraction, int) and fraction in counts:
            parts.append(draw_text(x, foot + 39, f"({counts[fraction]})", "middle"))
    return Markup('<g class="{}">{}</g>').format(kind, Markup().join(parts))


def _about(cell: Cell, names: Mapping[str, str]) -> str:
    score = cell.score
    return (
        f"{names.get(cell.method, cell.method)}, {fraction_text(cell.label_fraction)}: {number_text(score.mean)} "
        f"(95 % interval {number_text(score.low)} to {number_text(score.high)})"
    )


def _point(
    cell: Cell,
    places: tuple[float, float],
    y: float,
    up: Axis,
    number: int,
    colour: int,
    about: str,
    size: float,
) -> Markup:
    """Draw one mean with its interval; the group moves as a whole."""
    low, high = up.at(cell.score.low) - y, up.at(cell.score.high) - y
    whisker = Markup('<line class="whisker c{}" x1="0" x2="0" y1="{:.1f}" y2="{:.1f}"/>')
    return Markup(
        '<g class="point" data-method="{}" data-x="{:.1f} {:.1f}" transform="translate({:.1f} {:.1f})">'
        "<title>{}</title>{}{}</g>"
    ).format(
        cell.method,
        *places,
        places[0],
        y,
        about,
        whisker.format(colour, low, high),
        draw_mark(0, 0, number, colour, size),
    )
