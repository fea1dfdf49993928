"""Run a plan on real data, and write its figures: ``make evidence DATA=FOLDER``.

    python evidence/run.py --data FOLDER [--plan NAME ...] [--part val|test] [--work FOLDER] [--jobs N]

A plan is a TOML file in ``plans/``: `unlabeled compare --config` with the data laid out.  What has run stays in the work folder and is not
run again.  With ``--part test`` the rows go to ``NAME.csv``, the table to ``NAME.md`` and the comparisons to
``src/unlabeled/evidence.csv``; with ``--part val`` (for choosing options) the table is printed alone.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from pathlib import Path
from typing import Literal

from collect import write_plan

from data import lay_out
from unlabeled import compare
from unlabeled.benchmark.plan import pretraining_of
from unlabeled.benchmark.tables import markdown_table, write_scores
from unlabeled.errors import UnlabeledError
from unlabeled.training.facts import git_state
from unlabeled.training.log import RunFolder

HERE = Path(__file__).resolve().parent


def run(name: str, data: Path, work: Path, part: Literal["val", "test"], jobs: int = 1) -> int:
    """Run one plan, print its table, and keep the figures of test subjects; give the comparison's exit code."""
    config = HERE / "plans" / f"{name}.toml"
    told = tomllib.loads(config.read_text())
    scans, labelled = lay_out(told["data"], data, work / "data")
    done = compare(
        scans,
        labelled,
        out=work / name,
        config=config,
        part=part,
        jobs=jobs,
        cache=work / "cache",
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    runs = [RunFolder(work / name / pretraining_of(slug)) for slug in done.plan.methods]
    prints = ", ".join(dict.fromkeys(str(run.read_facts().get("data", "unknown")) for run in runs))
    text = markdown_table(
        done.plan,
        done.outcome,
        done.comparison,
        title=told["title"],
        verdict=done.verdict,
        source=f"Printed by `make evidence DATA=... PLAN={name}`, commit {git_state()}, data {prints}.",
    )
    print(text)
    if part == "test" and not done.outcome.failed:
        (HERE / f"{name}.md").write_text(text)
        write_scores(HERE / f"{name}.csv", done.outcome, told["keep"])
        write_plan(name)
    return done.exit_code


def main() -> None:
    """Run the plans asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--plan", action="append", default=[])
    parser.add_argument("--part", choices=("val", "test"), default="test")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache" / "unlabeled-evidence")
    parser.add_argument("--jobs", type=int, default=1, help="cells that run at once")
    asked = parser.parse_args()
    names = asked.plan or sorted(path.stem for path in (HERE / "plans").glob("*.toml"))
    try:
        sys.exit(max(run(name, asked.data, asked.work, asked.part, asked.jobs) for name in names))
    except UnlabeledError as fault:
        print(f"error: {fault.fact}\n  {fault.remedy}", file=sys.stderr)
        sys.exit(fault.exit_code)


if __name__ == "__main__":
    main()
