"""``unlabeled demo``: the main job in small, in minutes, with no download."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from unlabeled.cli.render import console, messages
from unlabeled.errors import OptionError, RunError
from unlabeled.options import Count, Whole


def demo(
    *, out: Path = Path("demo"), seeds: Count = 3, seed: Whole = 0, overwrite: bool = False
) -> int:
    """Pretrain, fine-tune with few labels and compare with scratch, on virtual patients.

    Parameters
    ----------
    out
        Folder for cohort, runs, predictions and report.html.
    seeds
        Random starts of each fine-tuning.
    seed
        Random start of the cohort and of the pretraining.
    overwrite
        Remove the folder first, where it holds an earlier demo.
    """
    from unlabeled.benchmark.demonstration import demonstrate, next_steps

    if overwrite and (out / "data" / "scans").is_dir():
        shutil.rmtree(out)
    if out.exists() and not (out / "data").is_dir() and any(out.iterdir()):
        raise RunError(f"{out} is not empty and holds no demo", "Give another folder with --out.")
    for name, value, least in (("--seeds", seeds, 1), ("--seed", seed, 0)):
        if value < least:
            raise OptionError(
                f"{name} is {value}, outside its range", f"Give {name} at least {least}."
            )
    began = time.monotonic()

    def say(text: str) -> None:
        messages().print(f"[dim]{time.monotonic() - began:4.0f} s[/]  {text}", soft_wrap=True)

    done = demonstrate(out, seeds=seeds, seed=seed, say=say)
    shown = console()
    shown.print()
    shown.print(done.verdict, soft_wrap=True)
    shown.print("(virtual patients: this shows that the chain works, nothing more)", soft_wrap=True)
    shown.print(f"\nreport       {done.report}", soft_wrap=True)
    shown.print(f"predictions  {done.predictions}", soft_wrap=True)
    shown.print("\non your own scans:")
    for step in next_steps():
        shown.print(f"  {step.text:<62} {step.says}", soft_wrap=True, markup=False)
    return 0
