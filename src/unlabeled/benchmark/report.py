"""The report of a comparison: one HTML file that stands alone, for the person who decides and the one who checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from unlabeled.benchmark.charts import (
    Curve,
    colour_of,
    difference_chart,
    in_order,
    legend,
    line_chart,
    score_chart,
)
from unlabeled.benchmark.measures import Measured
from unlabeled.benchmark.page import Command, Picture, render_page, write_page
from unlabeled.benchmark.plan import Hours
from unlabeled.benchmark.statistics import Cell, Comparison, Fraction
from unlabeled.benchmark.verdict import outcome, verdict

_TABLE_ROWS = 12  # most rows of a learning curve's table; its chart has them all


@dataclass(frozen=True, slots=True)
class Example:
    """One test subject's predictions: `title` such as "Best", `text` about it without personal data."""

    title: str
    text: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class Pretext:
    """What one method learnt from without labels: panels over its training."""

    slug: str
    text: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True)
class MethodCard:
    """What a method is and how it ran: title, citation, BibTeX entry, resolved options, notes of departures."""

    slug: str
    title: str
    citation: str
    bibtex: str
    options: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cost:
    """What a method's training took of a machine.

    Parameters
    ----------
    pretrain_seconds, finetune_seconds
        Wall-clock time of the pretraining (once) and of one fine-tuning, on average.
    pretraining, finetuning
        The same in hours of processor cores and graphics processors.
    """

    pretrain_seconds: float
    finetune_seconds: float
    pretraining: Hours = field(default_factory=Hours)
    finetuning: Hours = field(default_factory=Hours)


@dataclass(frozen=True, slots=True)
class Auc:
    """Area under the ROC curve of one method at one label fraction: mean, least and largest of its random starts."""

    method: str
    label_fraction: Fraction
    mean: float
    least: float
    largest: float


@dataclass(frozen=True, slots=True)
class Missing:
    """A cell without figures, and why."""

    cell: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """All that a report shows.

    Parameters
    ----------
    title
        Heading of the page.
    measured
        From `compare_measures`: the verdict is about the first; empty where no cell has finished.
    done
        What was done, in plain words, a paragraph each.
    virtual
        Says in plain words that the patients are virtual, and what follows; empty for real scans.
    cautions
        What a reader must know before trusting the numbers (one seed, few test subjects, ...).
    names
        Names of methods by slug, and of classes where the data set does not say them.
    label_counts
        How many labelled subjects each label fraction came to, where that is known.
    costs
        Training time by slug, and at the baseline's name.
    aucs
        Of a classification into two classes.
    missing
        Cells that failed or have not run.
    curves
        Learning curves of pretraining and fine-tuning.
    previews
        Panels that show the pretext tasks.
    examples
        Predictions: best, median and worst subject.
    examples_about
        Which predictions these are, and how the subjects were chosen.
    label_names
        Names of the labels drawn in `examples`, in the order of the label values from 1.
    data
        Facts about the scans: name and value.
    quarantine
        Number of files left out, by reason; empty when none was.
    methods
        Cards of the methods.
    finetuning
        Options of every fine-tuning.
    environment
        Versions, device, seeds, fingerprints: name and value.
    reproduce
        Commands that make these numbers again.
    plan
        The plan as a file, to run it again where only the page is at hand.
    next_steps
        What to type next.
    created
        Date of the page, as text.
    """

    title: str
    measured: tuple[Measured, ...]
    done: tuple[str, ...]
    virtual: str = ""
    cautions: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    label_counts: Mapping[Fraction, int] = field(default_factory=dict)
    costs: Mapping[str, Cost] = field(default_factory=dict)
    aucs: tuple[Auc, ...] = ()
    missing: tuple[Missing, ...] = ()
    curves: tuple[Curve, ...] = ()
    previews: tuple[Pretext, ...] = ()
    examples: tuple[Example, ...] = ()
    examples_about: str = ""
    label_names: tuple[str, ...] = ()
    data: Mapping[str, str] = field(default_factory=dict)
    quarantine: Mapping[str, int] = field(default_factory=dict)
    methods: tuple[MethodCard, ...] = ()
    finetuning: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    reproduce: tuple[Command, ...] = ()
    plan: str = ""
    next_steps: tuple[Command, ...] = ()
    created: str = ""

    @property
    def comparison(self) -> Comparison | None:
        """What the verdict is about; None where no cell has finished."""
        return self.measured[0].comparison if self.measured else None


def write_report(path: Path | str, data: ReportData) -> Path:
    """Write a report as one HTML file, replacing the file at once or not at all.

    Parameters
    ----------
    path
        The file; its folder is made where missing.
    data
        What it shows.

    Returns
    -------
    Path
        The file.
    """
    return write_page(path, render_report(data))


def render_report(data: ReportData) -> str:
    """Render a report as HTML text; every text of `data` is escaped."""
    comparison = data.comparison
    baseline = comparison.baseline if comparison else "scratch"
    names = {baseline: "From scratch", **data.names}
    methods = comparison.methods if comparison else ()
    judged = [outcome(cell, comparison) for cell in comparison.cells] if comparison else []
    tested = [kind for kind in judged if kind != "baseline"]
    tone = "gain" if "gain" in tested else "harm" if "harm" in tested else "none"
    return render_page(
        "report.html",
        {
            "data": data,
            "title": data.title,
            "verdict": verdict(comparison, data.names) if comparison else _NOTHING,
            "tone": tone,
            "names": names,
            "methods": methods,
            "colours": colour_of(methods),
            "key": _key(methods, names),
            "shown": [_shown(m, names, data, place) for place, m in enumerate(data.measured)],
            "classes": _by_class(data),
            "aucs": _aucs(data),
            "missing": _grouped(data.missing),
            "gains": _gains(data),
            "curves": [draw_curve(curve, f"curve-{i}") for i, curve in enumerate(data.curves)],
            "quarantined": sum(data.quarantine.values()),
        },
    )


_NOTHING = "No cell of this comparison has finished, so nothing can be said yet."


def _shown(
    measured: Measured, names: Mapping[str, str], data: ReportData, place: int
) -> dict[str, Any]:
    """Draw one measure: scores, differences, and the rows of its table."""
    comparison = measured.comparison
    ordered = _in_order(comparison, data)
    of = names.get(measured.of, measured.of)
    title = capital(measured.measure.title) + (f", {of}" if of else "")
    unit = f" [{measured.measure.unit}]" if measured.measure.unit else ""
    counts = data.label_counts
    tested = any(cell.difference for cell in comparison.cells)
    label = title + unit
    return {
        "id": f"measure-{place}",
        "measured": measured,
        "title": title,
        "of": of,
        "label": label,
        "comparison": comparison,
        "rows": [(cell, outcome(cell, comparison)) for cell in ordered],
        "scores": score_chart(comparison, names, f"scores-{place}", label, counts),
        "differences": (
            difference_chart(comparison, names, f"differences-{place}", label, counts)
            if tested
            else None
        ),
    }


def _by_class(data: ReportData) -> list[dict[str, Any]]:
    """Arrange each measure that was split by class as a table: a row a method and fraction, a column a class."""
    tables = []
    for title in dict.fromkeys(m.measure.title for m in data.measured):
        split = [m for m in data.measured if m.measure.title == title]
        if len(split) < 2:
            continue
        rows = []
        for cell in _in_order(split[0].comparison, data):
            found = [m.comparison.cell(cell.method, cell.label_fraction) for m in split]
            rows.append((cell, found))
        measure = split[0].measure
        tables.append({"measure": measure, "title": capital(title), "split": split, "rows": rows})
    return tables


def _gains(data: ReportData) -> list[dict[str, Any]]:
    """Put what each method's training took beside the best that it brought."""
    comparison = data.comparison
    rows = []
    for method in comparison.methods if comparison else ():
        cost = data.costs.get(method)
        if cost is None or comparison is None:
            continue
        best = _best(comparison, method)
        rows.append(
            {
                "method": method,
                "cost": cost,
                "best": best,
                "outcome": outcome(best, comparison) if best else "baseline",
            }
        )
    return rows


def capital(text: str) -> str:
    """Begin a heading with a capital, and leave the rest as it is.

    >>> capital("accuracy"), capital("HD95")
    ('Accuracy', 'HD95')
    """
    return text[:1].upper() + text[1:]


def _in_order(comparison: Comparison, data: ReportData) -> list[Cell]:
    """Sort the cells from few labels to many, scratch first at each."""
    order = in_order(comparison.label_fractions, data.label_counts)
    return sorted(comparison.cells, key=lambda cell: order.index(cell.label_fraction))


def _aucs(data: ReportData) -> list[Auc]:
    """Sort the areas under the ROC curve from few labels to many."""
    order = in_order([each.label_fraction for each in data.aucs], data.label_counts)
    return sorted(data.aucs, key=lambda each: order.index(each.label_fraction))


def _grouped(missing: Sequence[Missing]) -> list[tuple[str, list[str]]]:
    """Put cells with the same reason together."""
    found: dict[str, list[str]] = {}
    for each in missing:
        found.setdefault(each.reason, []).append(each.cell)
    return list(found.items())


def _best(comparison: Comparison, method: str) -> Cell | None:
    """Find the cell of a method with the best difference to scratch."""
    tested = [c for c in comparison.cells if c.method == method and c.difference]
    sign = 1.0 if comparison.higher_is_better else -1.0
    return max(
        tested,
        key=lambda c: sign * (c.difference.interval.mean if c.difference else 0.0),
        default=None,
    )


def _key(methods: tuple[str, ...], names: Mapping[str, str]) -> Markup:
    titles = {method: names.get(method, method) for method in methods}
    return legend(titles, list(colour_of(methods).values()), marks=True)


def draw_curve(curve: Curve, name: str) -> dict[str, Any]:
    """Draw one learning curve and thin its points out for the table beside it."""
    alone = len(curve.series) < 2 and not any(s.method for s in curve.series)
    key = legend(
        {} if alone else {s.method or s.name: s.name for s in curve.series},
        [] if alone else [s.colour for s in curve.series],
        marks=False,
    )
    tables = []
    for series in curve.series:
        points = list(zip(series.x, series.y, strict=True))
        step = max(1, -(-len(points) // _TABLE_ROWS))
        kept = points[::step] + ([points[-1]] if points and (len(points) - 1) % step else [])
        tables.append((series.name, kept))
    return {"data": curve, "chart": line_chart(curve, name), "key": key, "tables": tables}


__all__ = [
    "Command",
    "Cost",
    "Example",
    "MethodCard",
    "Missing",
    "Picture",
    "Pretext",
    "ReportData",
    "draw_curve",
    "render_report",
    "write_report",
]
