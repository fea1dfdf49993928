"""``unlabeled predict RUN SCANS --out DIR``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from unlabeled.cli.render import console, counted, print_json


def predict(
    run: Path,
    scans: Path,
    /,
    *,
    out: Path,
    probabilities: Annotated[bool, Parameter(negative=())] = False,
    overlap: float = 0.5,
    workers: int = 0,
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    cache: Path | None = None,
    quiet: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Predict scans: masks on each scan's own grid, classes or places of slices as CSV, or what a method makes by itself.

    Parameters
    ----------
    run
        Run folder of `unlabeled finetune`, or of `unlabeled pretrain` with a method that makes something by itself
        (landmarks, denoised images; `unlabeled methods SLUG` says so).
    scans
        Folder, data set, manifest or one scan.
    out
        Folder for masks or products, predictions.csv and quarantine.csv.
    probabilities
        Write a map of every class as well: NIfTI, or for pictures a PNG of 65535 times the probability.
    overlap
        Share of a window's edge in common with the next one (0 to 0.9).
    workers
        Processes that prepare scans.
    accelerator
        Kind of device.
    cache
        Folder of prepared scans; the user's cache folder when absent.
    quiet
        Print nothing but errors.
    json
        Print the rows of predictions.csv as JSON.
    """
    from unlabeled.transfer.predict import predict as run_predict

    done = run_predict(
        run,
        scans,
        out,
        probabilities=probabilities,
        overlap=overlap,
        workers=workers,
        accelerator=accelerator,
        cache=cache,
        quiet=quiet,
    )
    if json:
        print_json({"predictions": list(done.rows), "quarantined": len(done.quarantine)})
    elif not quiet:
        left = len(done.quarantine)
        console().print(
            f"{counted(len(done.rows), 'scan')} predicted: {done.out}/predictions.csv"
            + (f"; {left} left out ({done.out}/quarantine.csv says why)" if left else ""),
            soft_wrap=True,
            markup=False,
        )
    return 0
