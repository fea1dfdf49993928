"""Records: prepared scans as methods see them, opened only when asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unlabeled.data.arrays import StoredArray, gone, within
from unlabeled.data.entry import DamagedEntryError, Entry, read_entry
from unlabeled.data.intensity import IntensityRule, Rescaling
from unlabeled.data.kernels import Scaling, scaling
from unlabeled.data.scan import Grid, Source
from unlabeled.errors import DataError


@dataclass(frozen=True, slots=True)
class Record:
    """One prepared scan: its geometry, and patches of it as network input.

    Holds neither voxels nor open files, so that an archive of any length fits into memory and goes to worker
    processes; the header is read when it is first needed.

    Parameters
    ----------
    key
        Names the scan's content and preparation in the store; no personal data.
    source
        The row of the index.
    rule
        How intensities enter the networks.
    folder
        Folder of the store with all scans of the same preparation.
    """

    key: str
    source: Source
    rule: IntensityRule
    folder: str

    @property
    def path(self) -> Path:
        """File of the store."""
        return entry_path(self.folder, self.key)

    @property
    def subject(self) -> str:
        """Who was scanned, as a pseudonym."""
        return self.source.subject

    @property
    def study(self) -> str:
        """On which visit, as a pseudonym."""
        return self.source.study

    @property
    def modality(self) -> str:
        """``CT``, ``MR``, ...; several registered ones joined with ``;``; empty when unknown."""
        return self._entry.about.modality

    @property
    def spacing(self) -> tuple[float, ...] | None:
        """Voxel edge lengths [mm]; None where unknown."""
        return self._entry.about.spacing

    @property
    def affine(self) -> NDArray[np.float64] | None:
        """Voxel index to world position, 4x4 [mm]; None where unknown."""
        return self._entry.about.affine

    @property
    def grid(self) -> Grid:
        """Grid of the file, before reorientation and resampling."""
        return self._entry.about.grid

    @property
    def image(self) -> StoredArray:
        """The stored numbers, ``channel *space``; `patch` makes intensities of them."""
        return self._entry.arrays["image"]

    @property
    def mask(self) -> StoredArray | None:
        """Labels, one channel; None where there are none."""
        return self._entry.arrays.get("mask")

    @property
    def labelled_voxels(self) -> dict[int, NDArray[np.int32]]:
        """Positions of up to some thousand voxels of each label, ``voxel axis``, evenly spread; label 0 has none."""
        stored = self._entry.arrays.get("labelled")
        if stored is None:
            return {}
        rows = stored.whole()[0]
        return {
            int(label): rows[rows[:, 0] == label, 1:] for label in np.unique(rows[:, 0]) if label
        }

    @property
    def extras(self) -> Mapping[str, StoredArray]:
        """What the method's own preparation added, by name."""
        arrays = self._entry.arrays.items()
        return {
            name.partition(":")[2]: array for name, array in arrays if name.startswith("extra:")
        }

    @property
    def space(self) -> tuple[int, ...]:
        """Voxels along each axis of space."""
        return self.image.shape[1:]

    @property
    def dims(self) -> int:
        """Axes of space: 2 or 3."""
        return len(self.space)

    @property
    def channels(self) -> int:
        """Channels of the image."""
        return self.image.shape[0]

    @property
    def colour(self) -> bool:
        """Whether the channels are red, green and blue: those of a single file."""
        return self.channels >= 3 and len(self.source.channels) == 1

    @property
    def placed(self) -> bool:
        """Whether an affine is known."""
        return self.affine is not None

    @property
    def foreground(self) -> tuple[tuple[int, int], ...]:
        """Start and stop of the foreground box along each axis of space [voxel]."""
        return self._entry.about.foreground

    @property
    def rescalings(self) -> tuple[Rescaling, ...]:
        """How each channel becomes network input under the rule."""
        return _rescalings(self.folder, self.key, self.rule)

    @property
    def window(self) -> tuple[float, float]:
        """Low and high end of the first channel's window (HU for CT); infinite where the rule clips nothing."""
        first = self.rescalings[0]
        return first.low, first.high

    def patch(self, start: Sequence[int], size: Sequence[int]) -> Tensor:
        """Read a patch as network input.

        Parameters
        ----------
        start
            First voxel along each axis of space; may be negative or beyond the scan.
        size
            Edge lengths [voxel].

        Returns
        -------
        Tensor
            ``channel *size``, float32, rescaled under the rule; beyond the scan, the window's low end (without a
            window, the mean).

        Raises
        ------
        DataError
            If the scan has gone from the cache or is damaged.
        """
        image = self.image
        scalings = _scalings(self.folder, self.key, self.rule)
        out = np.empty((image.shape[0], *size), np.float32)
        if within(start, size, image.shape[1:]):
            return torch.from_numpy(image.read_scaled(start, size, scalings, out))
        read = _overlap(start, size, image.shape[1:])
        for channel, rescaling in zip(out, self.rescalings, strict=True):
            channel.fill(rescaling.padding)
        if read is not None:
            first, edges, where = read
            out[(slice(None), *where)] = image.read_scaled(first, edges, scalings)
        return torch.from_numpy(out)

    def mask_patch(self, start: Sequence[int], size: Sequence[int]) -> Tensor:
        """Read the labels of a patch, ``*size`` int64, 0 beyond the scan.

        Raises
        ------
        DataError
            If the scan has no mask, or has gone from the cache or is damaged.
        """
        if self.mask is None:
            raise DataError(
                f"{self.source.name} has no mask", "Name it in the manifest's column `mask`."
            )
        out = np.zeros(tuple(size), np.int64)
        read = _overlap(start, size, self.space)
        if read is not None:
            first, edges, where = read
            out[where] = self.mask.read(first, edges)[0]
        return torch.from_numpy(out)

    @property
    def _entry(self) -> Entry:
        return _open(self.folder, self.key)


def entry_path(folder: str | Path, key: str) -> Path:
    """Where a scan stands: spread over 256 folders, as file systems are slow with millions in one."""
    return Path(folder, key[:2], key)


@lru_cache(maxsize=512)
def _open(folder: str, key: str) -> Entry:
    """Read a header; the last few hundred are kept, as one sample asks for several of its parts."""
    try:
        return read_entry(entry_path(folder, key))
    except (OSError, DamagedEntryError) as fault:
        raise gone(folder) from fault


@lru_cache(maxsize=512)
def _rescalings(folder: str, key: str, rule: IntensityRule) -> tuple[Rescaling, ...]:
    """Give how each channel becomes network input; kept as long as headers are."""
    return tuple(
        rescaling
        for statistics in _open(folder, key).about.statistics
        for rescaling in [Rescaling.under(rule, statistics)] * statistics.channels
    )


@lru_cache(maxsize=512)
def _scalings(folder: str, key: str, rule: IntensityRule) -> tuple[Scaling, ...]:
    """Give how stored numbers become network input, one a channel; kept as long as headers are."""
    about = _open(folder, key).about
    each = _rescalings(folder, key, rule)
    return tuple(scaling(one, about.slope, about.intercept) for one in each)


def _overlap(
    start: Sequence[int], size: Sequence[int], space: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[slice, ...]] | None:
    """Say what part of a patch lies in the scan: its first voxel, its edges, its place in the patch."""
    if not len(start) == len(size) == len(space) or min(size) < 1:
        raise ValueError(
            f"a patch at {tuple(start)} of {tuple(size)} voxels, in a scan of {tuple(space)}"
        )
    first = tuple([max(0, begin) for begin in start])
    stop = tuple(
        [min(edge, begin + length) for begin, length, edge in zip(start, size, space, strict=True)]
    )
    edges = tuple([last - begin for begin, last in zip(first, stop, strict=True)])
    if min(edges) <= 0:
        return None
    where = tuple(
        slice(inner - outer, inner - outer + edge)
        for inner, outer, edge in zip(first, start, edges, strict=True)
    )
    return first, edges, where
