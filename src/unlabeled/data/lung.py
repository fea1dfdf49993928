"""Which patches of a CT scan hold lung: the rule of Models Genesis, which later methods took over."""

from __future__ import annotations

from typing import Literal, TypeAlias

from torch import Tensor

from unlabeled.data.record import Record
from unlabeled.errors import OptionError

TISSUE = -150.0  # [HU]; lung and air lie below (official code)
MOST_TISSUE = 0.15  # largest mean `tissue_score` of a patch with lung (official code)
TRIES = 50  # patches looked at for one with lung (official code)
LOOK_AHEAD = 2  # slices that `tissue_score` reads beyond a voxel's own (official code)

#: Which patches are taken: any, those with lung, or those with lung in official mode on CT volumes.
ContentFilter: TypeAlias = Literal["auto", "lung", "none"]


def wants_lung(record: Record, asked: ContentFilter, *, official: bool) -> bool:
    """Tell whether patches of a scan must hold lung.

    Raises
    ------
    OptionError
        Lung is asked for, and the scan is no CT volume.
    """
    readable = record.modality == "CT" and record.dims == 3
    if asked == "lung" and not readable:
        raise OptionError(
            f"{record.source.name} is no CT volume, and the lung filter reads Hounsfield units",
            "Give --content-filter none.",
        )
    return readable and (asked == "lung" or (asked == "auto" and official))


def tissue_level(record: Record) -> float:
    """Give the intensity under the record's rule from which on a voxel is denser than lung."""
    low, high = record.window
    return (TISSUE - low) / (high - low)


def tissue_score(patch: Tensor, level: float) -> float:
    """Measure how much of a patch is denser than lung, in [0, 1]; the last two slices are only looked ahead at.

    A voxel counts 1 where its own intensity reaches `level`, 1/2 where only that of the next slice does, else 0.

    >>> import torch
    >>> tissue_score(torch.tensor([[[[0.0, 0.0, 0.9, 0.9, 0.9]]]]), 0.5)  # 0, 1/2, 1
    0.5
    """
    dense = patch >= level
    own, following = dense[..., :-LOOK_AHEAD], dense[..., 1 : 1 - LOOK_AHEAD]
    return float((own.float() + 0.5 * (following & ~own)).mean())
