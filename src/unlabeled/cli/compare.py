"""``unlabeled compare SCANS LABELLED --methods a,b --label-fractions 0.05,0.1,1 --seeds 5 --out DIR``."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from unlabeled.benchmark.asked import OURS, NetworkOptions, PretrainingOptions, shared_names
from unlabeled.benchmark.compare import Compared, EngineName, compare
from unlabeled.benchmark.tables import rows_of, tell_costs, write_interval
from unlabeled.benchmark.verdict import outcome as judge
from unlabeled.benchmark.verdict import p_text
from unlabeled.cli.options import POSITION, command, keywords, parameter
from unlabeled.cli.render import console, counted, messages, print_json
from unlabeled.errors import OptionError
from unlabeled.training.settings import Settings
from unlabeled.transfer.task import FinetuneOptions, TaskName


def compare_command(typed: Sequence[str] = ()) -> Callable[..., Any]:
    """Make the command, with the options that pretraining and fine-tuning share with no method.

    Parameters
    ----------
    typed
        The words of the command line: what to type to go on is told in them.
    """

    def run(scans: Path | None = None, labelled: Path | None = None, **given: Any) -> int:
        return _compare(scans, labelled, typed, **given)

    run.__doc__ = _compare.__doc__
    network = keywords(NetworkOptions, "Network, the same for all")
    pretraining = keywords(PretrainingOptions, "Pretraining options", order=2)
    hidden = shared_names()
    finetuning = [
        each
        for each in keywords(FinetuneOptions, "Fine-tuning options", order=3)
        if each.name not in hidden
    ]
    machine = [
        each for each in keywords(Settings, "Machine options", order=4) if each.name not in OURS
    ]
    return command(run, _fixed(), network, pretraining, finetuning, machine)


def _fixed() -> list[inspect.Parameter]:
    return [
        parameter(
            "scans",
            Path | None,
            "Folder, data set or manifest of unlabelled scans.",
            at=POSITION,
            default=None,
        ),
        parameter(
            "labelled",
            Path | None,
            "Folder, data set or manifest with masks, labels or targets.",
            at=POSITION,
            default=None,
        ),
        parameter("out", Path, "Folder of the comparison: made, or gone on with."),
        parameter(
            "methods",
            str | None,
            "Slugs with commas between them, or `all` for those that fit; those of --config when absent.",
            default=None,
        ),
        parameter(
            "label_fractions",
            str | None,
            "Shares of the labelled training subjects up to 1, or numbers of subjects above 1, with commas between "
            "them; 1 when absent.",
            default=None,
        ),
        parameter("seeds", int | None, "Random starts of each cell; 3 when absent.", default=None),
        parameter(
            "task",
            TaskName | None,
            "What to learn; guessed from what LABELLED has when absent.",
            default=None,
        ),
        parameter(
            "part",
            Literal["val", "test"] | None,
            "Subjects to measure on: val while options are chosen, test (when absent) once.",
            default=None,
        ),
        parameter("title", str | None, "What the comparison is about.", default=None),
        parameter(
            "config",
            Path | None,
            "Plan (TOML) with what differs by method: sections [methods.SLUG] and [finetuning]; what is typed goes "
            "before what it says, but for [methods.SLUG].",
            default=None,
        ),
        parameter("cache", Path | None, "Folder of prepared scans.", default=None),
        parameter(
            "engine",
            EngineName,
            "Processes of this machine, or a Ray cluster, whose machines share OUT and the data.",
            default="local",
        ),
        parameter("jobs", int, "Processes at a time, which share the cores (local).", default=1),
        parameter(
            "address",
            str | None,
            "Of the Ray cluster; $RAY_ADDRESS, or one of this machine alone, when absent.",
            default=None,
        ),
        parameter("cpus_per_cell", float, "Cores that Ray sets aside for each run.", default=1.0),
        parameter("gpus_per_cell", float, "GPUs that Ray sets aside for each run.", default=0.0),
        parameter(
            "memory_per_cell",
            float | None,
            "Memory that Ray sets aside for each run [GB].",
            default=None,
        ),
        parameter(
            "retries", int, "How often Ray begins a run again whose machine died.", default=3
        ),
        parameter("json", bool, "Print the result as JSON.", default=False),
        parameter("quiet", bool, "Print no progress.", default=False),
    ]


def _compare(scans: Path | None, labelled: Path | None, typed: Sequence[str], **given: Any) -> int:
    """Compare methods with training from scratch: same splits, network, patch and budget for all.

    Every run is kept in OUT: the same command goes on where it stopped, and methods, label fractions and seeds may be
    added to it. Tune on --part val; measure on the test subjects once.
    """
    quiet, as_json = given.pop("quiet", False), given.pop("json", False)
    methods = _words(given.pop("methods", None))
    fractions = _numbers(given.pop("label_fractions", None))

    def say(text: str) -> None:
        if not quiet:
            messages().print(text, soft_wrap=True, markup=False)

    try:
        done = compare(
            scans, labelled, methods=methods, label_fractions=fractions, say=say, **given
        )
    except KeyboardInterrupt:
        again = shlex.join(["unlabeled", *typed])
        messages().print(
            f"interrupted; every run has saved. Go on with:\n  {again}",
            soft_wrap=True,
            markup=False,
        )
        return 130
    if as_json:
        print_json(_as_json(done))
    else:
        _show(done)
    return done.exit_code


def _words(text: str | None) -> list[str] | None:
    """Split words at commas and spaces.

    >>> _words("a, b,c")
    ['a', 'b', 'c']
    """
    return None if text is None else text.replace(",", " ").split()


def _numbers(text: str | None) -> list[float] | None:
    words = _words(text)
    if words is None:
        return None
    try:
        return [float(word) for word in words]
    except ValueError:
        wrong = next(word for word in words if not _is_number(word))
        raise OptionError(
            f"--label-fractions holds {wrong!r}, which is no number",
            "Give shares up to 1, or numbers of subjects above 1: --label-fractions 0.05,0.1,1",
        ) from None


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _as_json(done: Compared) -> dict[str, Any]:
    cells = []
    for label, cell in [] if done.comparison is None else rows_of(done.comparison, done.plan):
        difference = cell.difference
        cells.append(
            {
                "labels": label,
                "method": cell.method,
                "seeds": cell.seeds,
                "subjects": cell.subjects,
                "score": [cell.score.mean, cell.score.low, cell.score.high],
                "difference": None
                if difference is None
                else [difference.interval.mean, difference.interval.low, difference.interval.high],
                "p": None if difference is None else difference.p,
                "p_holm": None if difference is None else difference.p_holm,
            }
        )
    return {
        "out": str(done.out),
        "report": None if done.report is None else str(done.report),
        "verdict": done.verdict,
        "task": done.plan.task,
        "part": done.plan.part,
        "metric": None if done.comparison is None else done.comparison.metric,
        "cells": cells,
        "failed": done.outcome.failed,
        "left_out": dict(done.left_out),
        "notes": list(done.notes),
        "cost": {
            name: {
                "core_hours": [spent.pretraining.core, spent.finetuning.core],
                "gpu_hours": [spent.pretraining.gpu, spent.finetuning.gpu],
                "finetunings": spent.cells,
            }
            for name, spent in done.outcome.spent.items()
        },
    }


def _show(done: Compared) -> None:
    out = console()

    def say(text: str) -> None:
        out.print(text, soft_wrap=True, markup=False)

    if done.comparison is not None:
        table = Table(box=None, pad_edge=False)
        for name in ("labels", "method", done.comparison.metric, "to scratch", "p (Holm)", ""):
            table.add_column(name)
        for label, cell in rows_of(done.comparison, done.plan):
            judged = judge(cell, done.comparison)
            against = ("", "")
            if cell.difference is not None:
                gap = write_interval(cell.difference.interval, sign=True)
                against = (gap, p_text(cell.difference.p_holm))
            word = {"gain": "gain", "harm": "harm"}.get(judged, "")
            table.add_row(label, cell.method, write_interval(cell.score), *against, word)
        out.print(table)
        over = "new seeds and new subjects" if done.plan.seeds > 1 else "new subjects"
        say(f"mean (95 % interval over {over})")
    say("")
    say(done.verdict)
    say("")
    for cost in tell_costs(done.outcome):
        say(f"cost: {cost}")
    failed = done.outcome.failed
    if failed:
        say(f"{counted(len(failed), 'run')} not done ({done.out}/failed.csv says why):")
        for name, fault in list(failed.items())[:5]:
            say(f"  {name}: {fault.splitlines()[0]}")
    if done.report is not None:
        say(f"report  {done.report}")
    say(f"scores  {done.out}/scores.csv")
    say(f"table   {done.out}/table.md")
