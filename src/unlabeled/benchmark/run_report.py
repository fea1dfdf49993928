"""The page of one run, pretraining or fine-tuning: how it went, what it scored, and what to type next."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unlabeled.benchmark.charts import Curve, Series
from unlabeled.benchmark.learning import (
    log_rows,
    loss_curves,
    loss_names,
    points_of,
    rows_with_steps,
    score_curves,
    series_of,
)
from unlabeled.benchmark.measures import MEASURES
from unlabeled.benchmark.numbers import duration_text, number_text
from unlabeled.benchmark.page import Command, Picture, render_page, write_page
from unlabeled.benchmark.report import MethodCard, draw_curve
from unlabeled.benchmark.sources import (
    card_of,
    environment_of,
    previews_of,
    quarantine_of,
)
from unlabeled.errors import RunError
from unlabeled.methods._registry import slugs
from unlabeled.training.log import RunFolder

REPORT = "report.html"
_PANELS = 6


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Scores of one part of the subjects: a row a measure, a column a class, each with its interval."""

    part: str
    subjects: int
    unit: str
    classes: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Mapping[str, float | None] | None, ...]], ...]


@dataclass(frozen=True, slots=True)
class Option:
    """One resolved option of a run, and where its value came from."""

    name: str
    value: str
    source: str


@dataclass(frozen=True, kw_only=True)
class RunData:
    """All that the page of a run shows.

    Parameters
    ----------
    title
        Heading.
    state
        ``finished``, ``running``, ``interrupted`` or ``failed``.
    told
        How it ended or stands, in one sentence.
    facts
        Name and value.
    scores
        The pretext scores on held-out scans: name, first, last.
    tables
        Scores on whole subjects.
    curves
        Over the steps.
    previews
        Panels of the task.
    notes
        What was loaded, and what a person should know.
    options
        All of them.
    quarantine
        Number of files left out, by reason.
    card
        The paper of a pretraining.
    environment
        Versions, device, seed, fingerprint.
    commands
        What to type next.
    created
        Date of the page.
    """

    title: str
    state: str
    told: str
    facts: Mapping[str, str]
    scores: tuple[tuple[str, str, str], ...] = ()
    tables: tuple[ScoreTable, ...] = ()
    curves: tuple[Curve, ...] = ()
    previews: tuple[Picture, ...] = ()
    notes: tuple[str, ...] = ()
    options: tuple[Option, ...] = ()
    quarantine: Mapping[str, int] = field(default_factory=dict)
    card: MethodCard | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    commands: tuple[Command, ...] = ()
    created: str = ""


def write_run(run: Path, to: Path | None = None) -> Path:
    """Write the page of a run: ``RUN/report.html``, or another file."""
    data = run_report_of(run)
    page = render_page(
        "run.html",
        {
            "data": data,
            "title": data.title,
            "curves": [draw_curve(curve, f"curve-{i}") for i, curve in enumerate(data.curves)],
            "quarantined": sum(data.quarantine.values()),
        },
    )
    return write_page(to or run / REPORT, page)


def run_report_of(run: Path) -> RunData:
    """Collect what the page of a run shows, whether it has finished or not.

    Raises
    ------
    RunError
        The folder holds no run, or a damaged one.
    """
    facts = RunFolder(run).read_facts()
    if not facts:
        raise RunError(
            f"{run} holds no run",
            "Give the --out of `unlabeled pretrain` or `unlabeled finetune`.",
        )
    command = str(facts.get("command", "run"))
    kind, _, what = command.partition(" ")
    rows = log_rows(run)
    slug = what if kind == "pretrain" and what in slugs() else ""
    state, told = _state(facts, rows, run)
    return RunData(
        title=f"{'Pretraining' if kind == 'pretrain' else 'Fine-tuning'}: {what}",
        state=state,
        told=told,
        facts=_told_facts(facts, rows),
        scores=_scores(rows),
        tables=_tables(run),
        curves=tuple(_curves(rows, slug)),
        previews=previews_of(run, what, _PANELS),
        notes=tuple(str(line) for line in (*(facts.get("loaded") or ()), *facts.get("notes", ()))),
        options=options_of(run),
        quarantine=quarantine_of(run),
        card=card_of(slug, run) if slug else None,
        environment=environment_of(run),
        commands=_commands(run, kind, what, state),
        created=datetime.now(UTC).strftime("%Y-%m-%d"),
    )


def options_of(run: Path) -> tuple[Option, ...]:
    """Read every option of a run with where its value came from; empty where the file is not there."""
    try:
        lines = (run / "options.toml").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ()
    found = []
    for line in lines:
        name, equals, rest = line.removeprefix("# ").partition(" = ")
        if equals:
            value, _, source = rest.rpartition("  # ")
            found.append(Option(name.strip(), value.strip(), source.strip()))
    return tuple(found)


def _state(
    facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], run: Path
) -> tuple[str, str]:
    """Say how a run ended or stands."""
    steps = max((int(row.get("total", 0)) for row in rows), default=0)
    reason = str(facts.get("exit_reason", ""))
    if facts.get("finished"):
        why = ", as its score did not improve any more" if reason == "patience" else ""
        return (
            "finished",
            f"Finished after {facts.get('steps', steps)} steps and {duration_text(float(facts.get('seconds', 0)))}{why}.",
        )
    if reason == "interrupted":
        return "interrupted", f"Interrupted after {steps} steps; the checkpoint is complete."
    if reason.startswith("failed"):
        return "failed", f"Ended by a fault after {steps} steps. {reason.removeprefix('failed: ')}"
    log = run / "log.jsonl"
    when = ""
    if log.exists():
        seen = datetime.fromtimestamp(log.stat().st_mtime, UTC)
        when = f", the last of them logged on {seen:%Y-%m-%d at %H:%M} UTC"
    return (
        "running",
        f"Running, or cut off without a word: {steps} steps so far{when}. Figures are of this moment.",
    )


def _told_facts(facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Sum the run up: data, speed, waiting."""
    subjects = facts.get("subjects")
    told = {"Scans": f"{facts['scans']}" if "scans" in facts else ""}
    if isinstance(subjects, dict):
        told["Subjects"] = ", ".join(
            f"{subjects.get(part, 0)} {says}"
            for part, says in (
                ("train", "to train on"),
                ("val", "to validate"),
                ("test", "to test"),
            )
        )
        whole = facts.get("train_subjects_labelled")
        if whole and whole != subjects.get("train"):
            told["Subjects"] += f" (of {whole} with labels)"
    elif subjects:
        told["Subjects"] = str(subjects)
    if facts.get("init"):
        told["Started from"] = str(facts.get("init_slug") or facts["init"]).rsplit("/", 1)[-1]
    speeds = [float(row["scans_per_second"]) for row in rows if row.get("scans_per_second")]
    if speeds:
        told["Speed"] = f"{sorted(speeds)[len(speeds) // 2]:.3g} scans a second (median)"
    if "wait_share" in facts:
        told["Waited for data"] = f"{100 * float(facts['wait_share']):.1f} % of the time"
    if facts.get("seconds"):
        told["Time"] = duration_text(float(facts["seconds"]))
    told["Started"] = _moment(str(facts.get("started", "")))
    if facts.get("resumed"):
        told["Resumed"] = ", ".join(_moment(str(when)) for when in facts["resumed"])
    return {name: value for name, value in told.items() if value}


def _moment(text: str) -> str:
    """Write a moment of ``run.json`` for people.

    >>> _moment("2026-01-31T11:41:54+00:00"), _moment("")
    ('2026-01-31 11:41 UTC', '')
    """
    try:
        return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return text


def _scores(rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str, str], ...]:
    """Give every score on held-out scans, first and last, the level of chance among them."""
    there = rows_with_steps(rows)
    if not there:
        return ()
    names = dict.fromkeys(name for row in there for name in row["held_out"])
    found = []
    for name in names:
        values = [float(row["held_out"][name]) for row in there if name in row["held_out"]]
        found.append((name.replace("_", " "), number_text(values[0]), number_text(values[-1])))
    return tuple(found)


def _tables(run: Path) -> tuple[ScoreTable, ...]:
    """Arrange ``metrics.json``: a row a measure, a column a class."""
    try:
        told = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()
    titles = {measure.column: measure.title for known in MEASURES.values() for measure in known}
    tables = []
    for part, found in told.items():
        measures: dict[str, Any] = found["measures"]
        bases = [
            name for name in measures if not any(name.startswith(f"{one} ") for one in measures)
        ]
        classes = dict.fromkeys(
            name.removeprefix(f"{base} ")
            for base in bases
            for name in measures
            if name.startswith(f"{base} ")
        )
        columns = ("", *classes)
        rows = tuple(
            (
                titles.get(base, base),
                tuple(measures.get(f"{base} {one}".strip()) for one in columns),
            )
            for base in bases
        )
        says = {"val": "Validation", "test": "Test"}.get(part, part)
        tables.append(ScoreTable(says, found["subjects"], found.get("unit", ""), columns, rows))
    return tuple(tables)


def _curves(rows: Sequence[Mapping[str, Any]], slug: str) -> list[Curve]:
    """Draw losses, scores, learning rates, speed and waiting over the steps, phase by phase."""
    curves = loss_curves(rows, "", 1, names=loss_names(rows))
    if slug:
        curves += score_curves(rows, "", slug, 2)
    else:
        titles = {measure.column: measure.title for measure in MEASURES["segment"]}
        there = rows_with_steps(rows)
        for name in dict.fromkeys(name for row in there for name in row["held_out"]):
            lines = _by_phase([{**row, **row["held_out"]} for row in there], name)
            told = titles.get(name, name).replace("_", " ")
            curves.append(Curve(f"Validation patches: {told}", "step", told, lines))
    rates = dict.fromkeys(n for row in rows for n in row if n == "lr" or n.startswith("lr "))
    for name in rates:
        told = name.replace("lr", "learning rate")
        curves.append(Curve(told.capitalize(), "step", told, _by_phase(rows, name)))
    for name, title, label in (
        ("scans_per_second", "Speed", "scans a second"),
        ("wait_share", "Waiting for data", "share of the time"),
    ):
        lines = _by_phase(rows, name)
        if lines:
            curves.append(Curve(title, "step", label, lines))
    return curves


def _by_phase(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[Series, ...]:
    """Make a line of each phase."""
    lines = []
    for number, phase in enumerate(dict.fromkeys(row["phase"] for row in rows if name in row)):
        points = points_of([row for row in rows if row["phase"] == phase], name)
        if points:
            lines.append(series_of(phase, points, 1 + number))
    return tuple(lines)


def _commands(run: Path, kind: str, what: str, state: str) -> tuple[Command, ...]:
    """Say what to type next."""
    name = run.name or str(run)
    if state != "finished":
        scans = "SCANS" if kind == "pretrain" else "LABELLED --init RUN"
        again = f"unlabeled {kind} {what} {scans} --out {name} --resume"
        return (Command(again, "Goes on where it stopped:"),)
    if kind == "pretrain":
        return (
            Command(
                f"unlabeled finetune segment LABELLED --init {name} --out TASK",
                "Learns a task from few labels:",
            ),
            Command(f"unlabeled probe LABELLED --init {name}", "Measures the encoder as it is:"),
            Command(f"unlabeled export {name} --to nnunet --out FILE", "Hands it to another tool:"),
        )
    return (
        Command(
            f"unlabeled predict {name} SCANS --out PREDICTIONS", "Applies the task to new scans:"
        ),
    )
