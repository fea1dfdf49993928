"""The report of a comparison: one HTML file that stands alone, for the person who decides and the one who checks.

Nothing is loaded from elsewhere and no script runs (the page's own content security policy forbids both), so the file can be
mailed, archived and opened inside a hospital network.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from unlabeled.benchmark.charts import (
    Curve,
    colour_of,
    difference_chart,
    legend,
    line_chart,
    score_chart,
)
from unlabeled.benchmark.statistics import Comparison
from unlabeled.benchmark.verdict import fraction_text, outcome, p_text, signed, verdict

_TABLE_ROWS = 12  # most rows of a learning curve's table; its chart has them all


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG file's bytes, what it shows in one line, and the caption under it."""

    png: bytes
    alt: str
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """One test subject's predictions: `title` such as "Best", `text` its scores, no personal data."""

    title: str
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


@dataclass(frozen=True, slots=True)
class Cost:
    """What a method's training took: seconds of pretraining (once) and of one fine-tuning."""

    pretrain_seconds: float
    finetune_seconds: float


@dataclass(frozen=True, slots=True)
class Command:
    """A command to type, and what it does."""

    text: str
    says: str


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """All that a report shows.

    Parameters
    ----------
    title
        Heading of the page.
    comparison
        From `compare_scores`; the verdict, table and charts come from it.
    done
        What was done, in plain words, a paragraph each.
    virtual
        Says in plain words that the patients are virtual, and what follows; empty for real scans.
    cautions
        What a reader must know before trusting the numbers (one seed, few test subjects, ...).
    names
        Titles of methods by slug.
    costs
        Training time by slug, and at the baseline's name.
    curves
        Learning curves of pretraining and fine-tuning.
    previews
        Panels that show the pretext task.
    examples
        Predictions: best, median and worst subject.
    label_names
        Names of the labels drawn in `examples`, in the order of the label values from 1.
    data
        Facts about the scans: name and value.
    quarantine
        Number of files left out, by reason; empty when none was.
    methods
        Cards of the methods.
    environment
        Versions, device, seeds, fingerprints: name and value.
    reproduce
        Commands that make these numbers again.
    next_steps
        What to type next.
    created
        Date of the run, as text.
    """

    title: str
    comparison: Comparison
    done: tuple[str, ...]
    virtual: str = ""
    cautions: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    costs: Mapping[str, Cost] = field(default_factory=dict)
    curves: tuple[Curve, ...] = ()
    previews: tuple[Picture, ...] = ()
    examples: tuple[Example, ...] = ()
    label_names: tuple[str, ...] = ()
    data: Mapping[str, str] = field(default_factory=dict)
    quarantine: Mapping[str, int] = field(default_factory=dict)
    methods: tuple[MethodCard, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    reproduce: tuple[Command, ...] = ()
    next_steps: tuple[Command, ...] = ()
    created: str = ""


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
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    half = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        half.write_text(render_report(data), encoding="utf-8")
        half.replace(target)
    finally:
        half.unlink(missing_ok=True)
    return target


def render_report(data: ReportData) -> str:
    """Render a report as HTML text; every text of `data` is escaped."""
    environment = Environment(
        loader=PackageLoader("unlabeled.benchmark"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        png=_data_uri,
        fraction=fraction_text,
        p=p_text,
        signed=signed,
        duration=duration_text,
    )
    comparison = data.comparison
    names = {comparison.baseline: "From scratch", **data.names}
    colours = colour_of(comparison.methods)
    tested = [cell for cell in comparison.cells if cell.difference]
    judged = [outcome(cell, comparison) for cell in comparison.cells]
    tone = "gain" if "gain" in judged else "harm" if "harm" in judged else "none"
    return environment.get_template("report.html").render(
        data=data,
        comparison=comparison,
        verdict=verdict(comparison, data.names),
        tone=tone if tested else "none",
        names=names,
        colours=colours,
        judged=sorted(
            zip(comparison.cells, judged, strict=True), key=lambda pair: pair[0].label_fraction
        ),
        score_chart=score_chart(comparison, names, "scores"),
        difference_chart=difference_chart(comparison, names, "differences") if tested else None,
        key=_key(comparison, names),
        curves=[_curve(curve, f"curve-{i}") for i, curve in enumerate(data.curves)],
        quarantined=sum(data.quarantine.values()),
    )


def duration_text(seconds: float) -> str:
    """Write a time span.

    >>> duration_text(0.4), duration_text(75), duration_text(5400)
    ('0.4 s', '1 min 15 s', '1 h 30 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _key(comparison: Comparison, names: Mapping[str, str]) -> Markup:
    colours = colour_of(comparison.methods)
    titles = [names.get(method, method) for method in comparison.methods]
    return legend(titles, list(colours.values()), marks=True)


def _curve(curve: Curve, name: str) -> dict[str, object]:
    """Draw one learning curve and thin its points out for the table beside it."""
    key = legend([s.name for s in curve.series], [s.colour for s in curve.series], marks=False)
    tables = []
    for series in curve.series:
        points = list(zip(series.x, series.y, strict=True))
        step = max(1, -(-len(points) // _TABLE_ROWS))
        kept = points[::step] + ([points[-1]] if points and (len(points) - 1) % step else [])
        tables.append((series.name, kept))
    return {"data": curve, "chart": line_chart(curve, name), "key": key, "tables": tables}


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
