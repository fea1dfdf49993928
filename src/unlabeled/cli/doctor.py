"""``unlabeled doctor``: what this machine has and lacks."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from unlabeled import __version__
from unlabeled.cli.render import console, print_json

EXTRAS = {
    "demo": "nilearn",
    "board": "tensorboard",
    "itk": "SimpleITK",
    "parquet": "pyarrow",
    "onnx": "onnx",
}


def doctor(*, json_: Annotated[bool, Parameter(name="--json", negative=())] = False) -> int:
    """Say what this machine has and lacks.

    Parameters
    ----------
    json_
        Print JSON.
    """
    facts = examine()
    if json_:
        print_json(facts)
        return 0
    out = console()
    for name, value in facts.items():
        if name not in ("extras", "encoders"):
            out.print(f"{name:>12}  {value}", soft_wrap=True)
    for extra, there in facts["extras"].items():
        state = "installed" if there else f"missing; pip install 'unlabeled[{extra}]'"
        out.print(f"{'extra ' + extra:>12}  {state}", markup=False, soft_wrap=True)
    out.print(f"{'encoders':>12}  {', '.join(facts['encoders'])}", soft_wrap=True)
    return 0


def examine() -> dict[str, Any]:
    """Collect the facts."""
    import torch

    from unlabeled.data.walk import user_cache
    from unlabeled.nn.encoders import encoder_names
    from unlabeled.training.facts import cpu_name
    from unlabeled.training.precision import choose
    from unlabeled.training.settings import device_kind

    kind = device_kind("auto")
    arithmetic = choose("auto", kind)
    root = user_cache()
    there = root
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    facts: dict[str, Any] = {
        "unlabeled": __version__,
        "torch": torch.__version__,
        "processor": cpu_name(),
        "cores": os.cpu_count(),
        "device": kind,
        "precision": f"{arithmetic.fabric} ({arithmetic.why})",
        "cache": f"{_home(root)}, {free / 2**30:.0f} GiB free",
    }
    if kind == "cuda":
        facts["devices"] = [
            torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())
        ]
    facts["extras"] = {extra: find_spec(module) is not None for extra, module in EXTRAS.items()}
    facts["encoders"] = list(encoder_names())
    return facts


def _home(path: Path) -> str:
    try:
        return f"~/{path.relative_to(Path.home())}"
    except ValueError:
        return str(path)
