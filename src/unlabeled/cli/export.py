"""``unlabeled export RUN --to TOOL --out FILE``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from unlabeled.cli.render import console, print_json


def export(
    run: Path,
    /,
    *,
    to: Literal["nnunet", "monai", "timm", "safetensors", "onnx"],
    out: Path,
    axes: Literal["xyz", "zyx"] = "xyz",
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Write the encoder of a run for another tool, and read it back to prove it.

    Parameters
    ----------
    run
        Run folder, or its encoder.safetensors.
    to
        nnunet (resenc encoders), monai and timm (resnet, vit; timm in 2D), safetensors, onnx (needs the extra onnx).
    out
        File to write.
    axes
        Order of the kernels' axes for nnU-Net: xyz as trained, zyx as nnU-Net's readers hand arrays over.
    json
        Print what was written as JSON.
    """
    from unlabeled.transfer.export import export as write

    done = write(run, out, to=to, axes=axes)
    if json:
        print_json(
            {
                "file": str(done.path),
                "also": [str(path) for path in done.also],
                "tensors": done.tensors,
                "notes": list(done.notes),
            }
        )
        return 0
    shown = console()
    count = f" ({done.tensors} tensors)" if done.tensors else ""
    shown.print(f"wrote {done.path}{count}", markup=False, soft_wrap=True)
    for path in done.also:
        shown.print(f"wrote {path}", markup=False, soft_wrap=True)
    for note in done.notes:
        shown.print(f"  {note}", markup=False, soft_wrap=True)
    return 0
