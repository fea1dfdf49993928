"""Write what is derived from the experiments: ``python evidence/collect.py``.

    python evidence/collect.py [--check]

From every ``NAME.csv`` (scores of single test subjects) and its plan come the comparisons of ``src/unlabeled/evidence.csv``; from
``small-scale.csv`` and ``headlines.csv`` (which figure of a proof is told first, and against which other) comes
``src/unlabeled/small-scale.csv``; from both and the catalogue comes the table of methods in ``README.md``.  With ``--check`` nothing
is written: what differs is named, and the exit code is 1.  The fast suite checks.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unlabeled.benchmark.measures import MEASURES
from unlabeled.benchmark.statistics import Comparison, Score, compare_scores
from unlabeled.benchmark.verdict import outcome as finding
from unlabeled.catalogue import Card, cards
from unlabeled.catalogue.evidence import measured, proofs, tell_measured, tell_proofs
from unlabeled.catalogue.markdown import table
from unlabeled.methods._outline import outline
from unlabeled.methods._registry import slugs

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PACKAGE = ROOT / "src" / "unlabeled"
MARKS = (
    "<!-- methods: written by `python evidence/collect.py` -->",
    "<!-- end of methods -->",
)
EVIDENCE = (
    "slug",
    "data",
    "task",
    "metric",
    "label_fraction",
    "scratch",
    "pretrained",
    "difference",
    "low",
    "high",
    "p_holm",
    "finding",
    "seeds",
    "subjects",
    "plan",
    "commit",
)
PROOFS = ("slug", "data", "figure", "value", "against", "test")


def compare_plan(name: str, here: Path = HERE) -> tuple[Comparison, dict[str, Any]]:
    """Compare the methods of a plan once more, from the scores that were kept."""
    told = tomllib.loads((here / "plans" / f"{name}.toml").read_text())
    rows = read_rows(here / f"{name}.csv")
    measure = next(each for each in MEASURES[told["task"]] if each.column == told["column"])
    scores = scores_of(rows, measure.column)
    better = measure.higher_is_better
    return compare_scores(
        scores, metric=told["metric"], higher_is_better=better, bounds=measure.bounds
    ), told


def scores_of(rows: Iterable[Mapping[str, str]], column: str) -> list[Score]:
    """Average a measure over the scans and classes of each subject."""
    held: dict[tuple[str, float, int, str], list[float]] = {}
    for row in rows:
        right = row.get("predicted") == row.get("truth")
        value = float(right) if column == "correct" else float(row[column])
        place = (row["method"], float(row["fraction"]), int(row["seed"]), row["subject"])
        held.setdefault(place, []).append(value)
    return [
        Score(method, int(fraction) if fraction > 1 else fraction, seed, subject, mean(values))
        for (method, fraction, seed, subject), values in held.items()
    ]


def labels(fraction: float) -> str:
    """Write a label fraction: ``all``, ``5`` subjects, ``10%``."""
    if fraction == 1:
        return "all"
    return f"{fraction:g}" if fraction > 1 else f"{100 * fraction:g}%"


def mean(values: Sequence[float]) -> float:
    """Average, summing in the order of the file."""
    return sum(values) / len(values)


def evidence_of(name: str, here: Path = HERE) -> list[dict[str, str]]:
    """Make the rows of one plan: each method against scratch, at each label fraction."""
    comparison, told = compare_plan(name, here)
    commit = re.search(r"commit (\w+)", (here / f"{name}.md").read_text())
    rows = []
    for cell in sorted(comparison.cells, key=lambda cell: _few_first(cell.label_fraction)):
        scratch = comparison.cell(comparison.baseline, cell.label_fraction)
        if cell.difference is None or scratch is None:
            continue
        gap = cell.difference.interval
        rows.append(
            {
                "slug": cell.method,
                "data": told["data"],
                "task": told["task"],
                "metric": comparison.metric,
                "label_fraction": labels(cell.label_fraction),
                "scratch": f"{scratch.score.mean:.4f}",
                "pretrained": f"{cell.score.mean:.4f}",
                "difference": f"{gap.mean:.4f}",
                "low": f"{gap.low:.4f}",
                "high": f"{gap.high:.4f}",
                "p_holm": f"{cell.difference.p_holm:.2g}",
                "finding": finding(cell, comparison),
                "seeds": str(cell.seeds),
                "subjects": str(cell.subjects),
                "plan": name,
                "commit": commit[1] if commit else "unknown",
            }
        )
    return rows


def _few_first(fraction: float) -> tuple[bool, float]:
    """Order numbers of subjects before shares of all."""
    return fraction <= 1, fraction


def all_evidence(here: Path = HERE) -> str:
    """Make ``evidence.csv`` of all plans that have run."""
    names = sorted(path.stem for path in (here / "plans").glob("*.toml"))
    ran = [name for name in names if (here / f"{name}.csv").exists()]
    return as_csv(EVIDENCE, (row for name in ran for row in evidence_of(name, here)))


def all_proofs(here: Path = HERE) -> str:
    """Make the packaged ``small-scale.csv``: the figures as their tests printed them, and what to read one against."""
    rows = read_rows(here / "small-scale.csv")
    first = {
        (row["slug"], row["data"], row["figure"]): row["against"]
        for row in read_rows(here / "headlines.csv")
    }
    there = {(row["slug"], row["data"], row["figure"]) for row in rows}
    for slug, data, figure in first:
        for named in (figure, first[slug, data, figure]):
            if (slug, data, named) not in there:
                raise SystemExit(
                    f"headlines.csv names the figure {named!r} of {slug} on {data}, and small-scale.csv has no such row.\n"
                    "  Mend headlines.csv: name a figure that the proof prints, or leave the row out."
                )
    told = ({**row, "against": first.get(_place(row), "")} for row in rows)
    return as_csv(PROOFS, told)


def readme(text: str) -> str:
    """Renew the table between the marks of ``README.md``."""
    before, mark, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (mark and end):
        raise SystemExit(f"README.md lacks the lines\n  {MARKS[0]}\n  {MARKS[1]}")
    return f"{before}{mark}\n{methods_table()}\n{end}{after}"


def methods_table() -> str:
    """Write every paper of both lists: how to run it, how faithful it is, how it was seen to learn, what it brought."""
    here = slugs()
    ordered = sorted(cards().values(), key=lambda card: card.slug not in here)
    columns = ("method", "paper", "run it", "fidelity", "small-scale proof", "against scratch")
    return table(columns, [_row(card, here) for card in ordered])


def _row(card: Card, here: Iterable[str]) -> tuple[str, ...]:
    paper = f"[{card.venue} {card.year}]({card.paper_links[0]})"
    brief = outline(card.slug)
    if card.slug not in here or brief is None:
        return (card.slug, paper, "not yet", "", "", "")
    seen = "; ".join(tell_proofs(proofs().get(card.slug, ())))
    return (
        f"[{card.slug}](docs/methods/{card.slug}.md)",
        paper,
        f"`unlabeled pretrain {card.slug} SCANS --out RUN`",
        ", ".join(brief.fidelity),
        seen,
        tell_measured(measured().get(card.slug, ())) or "not measured",
    )


def _place(row: Mapping[str, str]) -> tuple[str, str, str]:
    return row["slug"], row["data"], row["figure"]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def as_csv(columns: Iterable[str], rows: Iterable[Mapping[str, str]]) -> str:
    """Write rows as CSV."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def write_plan(name: str) -> None:
    """Rewrite the rows of one plan that has just run; the others stay."""
    path = PACKAGE / "evidence.csv"
    held = [row for row in read_rows(path) if row["plan"] != name]
    rows = sorted([*held, *evidence_of(name)], key=lambda row: row["plan"])
    path.write_text(as_csv(EVIDENCE, rows), encoding="utf-8")


def main() -> int:
    """Write or check everything that is derived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for path, make in (
        (PACKAGE / "evidence.csv", lambda text: all_evidence()),
        (PACKAGE / "small-scale.csv", lambda text: all_proofs()),
        (ROOT / "README.md", readme),
    ):
        held = path.read_text(encoding="utf-8") if path.exists() else ""
        made = make(held)
        if made != held:
            stale.append(path.relative_to(ROOT))
            if not check:
                path.write_text(made, encoding="utf-8")
                measured.cache_clear()
                proofs.cache_clear()
    for path in stale:
        print(f"{path} {'differs from what it is made of' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
