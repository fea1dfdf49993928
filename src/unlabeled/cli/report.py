"""``unlabeled report RUN``."""

from __future__ import annotations

from pathlib import Path

from unlabeled.cli.render import console
from unlabeled.errors import RunError


def report(run: Path, /, *, out: Path | None = None, cache: Path | None = None) -> int:
    """Write the page of a run, or of a comparison again: one HTML file that needs nothing else.

    A run that has not finished gets a page that says so.

    Parameters
    ----------
    run
        Folder of `unlabeled pretrain`, `unlabeled finetune` or `unlabeled compare`.
    out
        File to write; RUN/report.html when absent.
    cache
        Folder of prepared scans, for the examples of a comparison; the user's cache folder when absent.
    """
    if not run.is_dir():
        raise RunError(
            f"{run} is {'a file' if run.exists() else 'not there'}",
            "Give the folder that `unlabeled pretrain`, `finetune` or `compare` wrote with --out.",
        )
    if out is not None and out.is_dir():
        raise RunError(f"{out} is a folder", f"Give a file: --out {out}/report.html")
    if (run / "run.json").is_file():
        from unlabeled.benchmark.run_report import write_run

        made = write_run(run, out)
    elif (run / "plan.toml").is_file():
        from unlabeled.benchmark.plan import collect
        from unlabeled.benchmark.plan_file import read_plan
        from unlabeled.benchmark.summary import write_comparison

        plan = read_plan(run)
        made = write_comparison(plan, collect(plan, run), run, cache=cache, to=out)
    else:
        raise _nothing(run)
    console().print(f"wrote {made}", markup=False, soft_wrap=True)
    return 0


def _nothing(folder: Path) -> RunError:
    """Say that a folder holds neither a run nor a comparison, and which of its folders does."""
    below = sorted(
        path.parent
        for pattern in ("*/run.json", "*/plan.toml", "*/*/run.json")
        for path in folder.glob(pattern)
    )
    meant = f"Did you mean {below[0]}? " if below else ""
    return RunError(
        f"{folder} holds neither a run nor a comparison",
        f"{meant}Give the folder that `unlabeled pretrain`, `finetune` or `compare` wrote with --out.",
    )
