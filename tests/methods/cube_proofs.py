"""What the tests of both methods that put cubes into order share: scans, and the proof on real ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from hippocampi import hippocampi

from unlabeled.methods._base import Method
from unlabeled.methods._registry import find
from unlabeled.training.pretrain import pretrain


def held(array: torch.Tensor) -> SimpleNamespace:
    """A record in memory, ``channel *space``, that refuses to be read outside."""
    space = tuple(array.shape[1:])

    def patch(start, size):
        assert all(0 <= a <= s - e for a, e, s in zip(start, size, space, strict=True))
        return array[(slice(None), *(slice(a, a + e) for a, e in zip(start, size, strict=True)))]

    box = tuple((0, edge) for edge in space)
    return SimpleNamespace(space=space, patch=patch, foreground=box)


def write_blocks(folder: Path, count: int, space: tuple[int, ...] = (20, 16, 20)) -> Path:
    """Write volumes of noise with a bright corner."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image = 100 * np.random.default_rng(number).random(space)
        image[: space[0] // 2, : space[1] // 2] += 100
        affine = np.diag([1.0, 1.0, 1.0, 1.0])
        affine[:3, 3] = 5.0
        nibabel.save(nibabel.Nifti1Image(image.astype(np.float32), affine), folder / f"{space[0]}-{number}.nii.gz")  # fmt: skip
    return folder


def learn_order(
    slug: str,
    shown: Sequence[str],
    shared_data: Path,
    folder: Path,
    steps: int,
    *,
    cut_signal: bool = False,
) -> tuple[dict[str, float], float]:
    """Pretrain on hippocampus MRI and score held-out subjects; with `cut_signal`, answers are other samples'."""
    scans = hippocampi(shared_data, folder / "scans")
    values = {
        "encoder": "resenc-tiny",
        "patch_size": (12, 16, 12),
        "gap": (4,),
        "permutations": 24,
        "samples_per_scan": 4,
        "steps": steps,
        "score_every": steps,
        "held_out_batches": 16,
        "accelerator": "cpu",
        "quiet": True,
    }
    kind = find(slug)
    step = kind.step

    def astray(self: Method, batch):
        return step(self, type(batch)(batch.cubes, *(part.roll(1, 0) for part in batch[1:])))

    with pytest.MonkeyPatch.context() as patch:
        if cut_signal:
            patch.setattr(kind, "step", astray)
        done = pretrain(slug, scans, folder / "run", cache=folder / "cache", **values)
    return {name: done.result.score[name] for name in shown}, done.result.seconds
