"""What a scan is: where it lies (`Source`), its voxels with their geometry (`Scan`), and why one was left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlabeled.errors import ScanError


class Unit(StrEnum):
    """What one training sample is made of."""

    IMAGE = "image"
    VOLUME = "volume"
    SLICE = "slice"
    FRAME = "frame"
    SECTION = "section"
    STUDY = "study"


@dataclass(frozen=True, slots=True)
class ScanFile:
    """The file or files that hold one channel of a scan.

    Parameters
    ----------
    paths
        One file, or the files of a DICOM series (in any order; the reader sorts them by position).
    format
        Name of the reader: ``nifti``, ``dicom``, ``picture`` (PNG, JPEG), ``tiff``, ``npy`` or ``itk``.
    """

    paths: tuple[Path, ...]
    format: str

    @property
    def path(self) -> Path:
        """The first file: enough to name the scan in a message."""
        return self.paths[0]


@dataclass(frozen=True, slots=True)
class Recording:
    """One measured response of a brain: a sample of a run.

    Parameters
    ----------
    file
        The run: ``npy``, ``samples voxels`` or one sample; or ``nifti``, volumes over time.
    sample
        Which one, from 0; None where the run holds a single one.
    """

    file: ScanFile
    sample: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One scan as the index knows it, before any voxel is read: a row of a manifest.

    Parameters
    ----------
    name
        Path relative to what the person typed; unique within an index; shown in messages.
    channels
        One entry a registered modality; a plain scan has one.
    subject, study
        Who was scanned, on which visit: pseudonymous, unique within the index, never a DICOM name or id.
    family
        Whose scans belong on one side of a split beside the subject's own: co-twins; empty where nobody says.
    time
        Time of the study, in the manifest's own unit.
    modality
        ``CT``, ``MR``, ``XR``, ``US``, ... or empty when unknown; several joined with ``;``.
    mask, label, target, report, level, boxes, frame, split
        Columns of a manifest; None when absent.
    responses
        What a brain answered to the picture, once for every time that it was shown.  A response whose picture nobody
        knows is a scan of its own, whose channel is the first run.
    region
        Mask of the voxels of the responses, where the runs are volumes; without it, all voxels.
    position
        Where a section lies in its brain: three numbers, the position of a small patch; or nine, its plane: the origin,
        and the edges along its width and its height.
    """

    name: str
    channels: tuple[ScanFile, ...]
    subject: str
    study: str = ""
    family: str = ""
    time: float | None = None
    modality: str = ""
    split: str | None = None
    mask: ScanFile | None = None
    label: str | None = None
    target: float | None = None
    report: str | None = None
    level: str | None = None
    boxes: str | None = None
    frame: int | None = None
    responses: tuple[Recording, ...] = ()
    region: ScanFile | None = None
    position: tuple[float, ...] | None = None

    @property
    def kin(self) -> str:
        """The family, or the subject alone: what a split keeps together."""
        return f"family {self.family}" if self.family else self.subject

    @property
    def is_response(self) -> bool:
        """Whether it is a response alone, whose picture nobody knows."""
        return bool(self.responses) and self.channels == (self.responses[0].file,)


def say_modality(sources: Sequence[Source], modality: str) -> Sequence[Source]:
    """Name the modality of scans whose files do not say it; an empty one changes nothing."""
    if not modality:
        return sources
    return tuple(replace(s, modality=s.modality or modality) for s in sources)


@dataclass(frozen=True, slots=True)
class Grid:
    """The voxel grid of a file: what predictions are written back onto.

    Parameters
    ----------
    shape
        Voxels along each axis of space, in the file's own order.
    affine
        Voxel index to world position, 4x4 [mm], RAS+ world; None where the file knows none.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """The voxels of one scan and where they lie.

    Parameters
    ----------
    array
        ``channel *space``; integers where the file holds integers (with `slope` and `intercept`), else float32.
        Volumes are reoriented to RAS; pictures keep (rows, columns).
    spacing
        Voxel edge lengths along each axis of space [mm]; None where unknown.
    affine
        4x4, of the reoriented array [mm]; None where unknown.
    modality
        As in `Source`, filled in from the file where it says.
    slope, intercept
        Intensity = array * slope + intercept, in HU for CT.
    grid
        The grid of the file before reorientation.
    extras
        What a method's `prepare` adds, by name (superpixels, saliency, ...): ``*space`` or ``channel *space``; kept
        beside the scan in the store.
    """

    array: NDArray[Any]
    spacing: tuple[float, ...] | None
    affine: NDArray[np.float64] | None
    modality: str
    grid: Grid
    slope: float = 1.0
    intercept: float = 0.0
    extras: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def dims(self) -> int:
        """Axes of space: 2 or 3."""
        return self.array.ndim - 1

    def intensities(self) -> NDArray[np.float32]:
        """The voxels as float32 intensities (HU for CT), ``channel *space``."""
        scaled = self.array.astype(np.float32)
        if self.slope != 1.0:
            scaled *= np.float32(self.slope)
        if self.intercept != 0.0:
            scaled += np.float32(self.intercept)
        return scaled


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A file that was left out, and why: a row of `quarantine.csv`."""

    name: str
    reason: str
    remedy: str = ""

    @classmethod
    def of(cls, name: str, error: ScanError) -> Quarantined:
        """Make the row of a scan that could not be read."""
        return cls(name, error.fact, error.remedy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """All usable scans below what a person typed, in a stable order, and all that was left out.

    Parameters
    ----------
    root
        What the person typed.
    sources
        Usable scans, sorted by name; a tuple, or for very many files a sequence that makes each `Source` when asked.
    quarantine
        Files left out, with reasons.
    rule
        How subject and study were found, as `check` prints it.
    layout
        ``folder``, ``bids``, ``nnunet`` or ``manifest``.
    label_names
        Names of the mask's values, where the data set says; may be empty.
    notes
        What a person should know although nothing is wrong with a file, as `check` prints it.
    """

    root: Path
    sources: Sequence[Source]
    quarantine: tuple[Quarantined, ...] = ()
    rule: str = ""
    layout: str = "folder"
    label_names: dict[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def subjects(self) -> tuple[str, ...]:
        """Every subject once, sorted."""
        return tuple(sorted({source.subject for source in self.sources}))
