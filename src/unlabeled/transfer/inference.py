"""What a trained task says of a whole scan, on the grid that its file has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unlabeled.data import formats
from unlabeled.data.resampling import Resampling
from unlabeled.data.store import Record
from unlabeled.transfer.task import Task
from unlabeled.transfer.windows import mean_over_windows, sliding_window


@dataclass(frozen=True)
class Native:
    """A scan's own grid in RAS order: what it was before the store resampled it.

    Parameters
    ----------
    space
        Voxels along each axis.
    spacing
        Voxel edge lengths [mm]; None where unknown.
    affine
        4x4 [mm]; None where unknown.
    """

    space: tuple[int, ...]
    spacing: tuple[float, ...] | None
    affine: NDArray[np.float64] | None


def native_grid(record: Record, *, resampled: bool) -> Native:
    """Find a record's own grid; only where the store resamples is the file's header read again."""
    if not resampled:
        return Native(record.space, record.spacing, record.affine)
    header = formats.read_header(record.source.channels[0], frame=record.source.frame)
    return Native(header.shape, header.spacing, header.affine)


def segment_logits(
    task: Task, record: Record, *, overlap: float = 0.5, batch_size: int | None = None
) -> Tensor:
    """Compute a segmentation's logits on the store's grid: ``class *space``, float32, on the CPU."""
    task.eval()
    device = next(task.parameters()).device
    size = tuple(task.options.patch_size)
    with torch.no_grad():
        own = task.own_logits(record)
        if own is not None:
            return own
        return sliding_window(
            record,
            task,
            size,
            overlap=overlap,
            batch_size=batch_size or _batch(size),
            device=device,
        )


def classes_of(
    logits: Tensor, record: Record, native: Native
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Turn logits into classes and probabilities on the scan's own grid.

    Parameters
    ----------
    logits
        ``class *space`` on the store's grid.
    record, native
        Where that grid lies, and the scan's own one.

    Returns
    -------
    tuple
        Class numbers ``*space`` and probabilities ``class *space``; where the store resampled, probabilities are
        interpolated linearly before the most likely class is taken, so that borders stay smooth.
    """
    likely: NDArray[np.float32] = logits.softmax(0).numpy()
    own, kept = native.spacing, record.spacing
    if own and kept and not np.allclose(own, kept, rtol=1e-4, atol=0):
        ratio = tuple(one / other for one, other in zip(own, kept, strict=True))
        likely = Resampling(record.space, native.space, ratio).image(likely)
    return likely.argmax(0), likely


def whole_scan_logits(task: Task, record: Record, *, batch_size: int | None = None) -> Tensor:
    """Average what a task says of the patches that cover a scan: ``class``, or one number."""
    task.eval()
    device = next(task.parameters()).device
    size = tuple(task.options.patch_size)
    with torch.no_grad():
        own = task.own_logits(record)
        if own is not None:
            return own
        return mean_over_windows(
            record, task, size, batch_size=batch_size or _batch(size), device=device
        )


def _batch(size: tuple[int, ...]) -> int:
    """Take so many windows at once that a batch holds about a million voxels, a hundred at most."""
    return max(1, min(100, 2**20 // max(1, int(np.prod(size)))))
