"""Responses of a brain to pictures: runs read and standardised, repeats averaged, reliability of voxels.

A run is a file of samples in the order of time: ``npy`` with ``samples voxels`` (or one sample), or NIfTI volumes over
time with a mask of the voxels of interest.  A manifest names single samples (``run07.npy#12``), so each row has its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unlabeled.data.formats.contents import guarded, require_file
from unlabeled.data.scan import Grid, Recording, Scan, ScanFile, Source
from unlabeled.errors import DataError, ScanError

if TYPE_CHECKING:  # records import torch, and the readers do without it
    from unlabeled.data.record import Record

RESPONSES = "responses"  # name among `Scan.extras` and `Record.extras`: ``1 repeats voxels``
FORMATS = ("npy", "nifti")


def read_responses(source: Source) -> NDArray[np.float32]:
    """Read the responses of a source, each standardised over its own run: ``1 repeats voxels``.

    Raises
    ------
    ScanError
        A run cannot be read, has no such sample, or its voxels are not those of the first.
    """
    rows = [_read_one(one, source.region) for one in source.responses]
    for one, row in zip(source.responses[1:], rows[1:], strict=True):
        if row.size != rows[0].size:
            raise ScanError(
                f"{one.file.path} has {row.size} voxels, and {source.responses[0].file.path} has {rows[0].size}",
                "Repeats of a picture must have the same voxels; use one region for all runs.",
            )
    return np.stack(rows)[None]


def as_scan(source: Source) -> Scan:
    """Make a scan of responses whose picture nobody knows: their average, as ``1 1 voxels``.

    Raises
    ------
    ScanError
        As `read_responses`.
    """
    responses = read_responses(source)
    average = responses.mean(axis=1, keepdims=True)
    return Scan(
        array=average,
        spacing=None,
        affine=None,
        modality=source.modality or "fMRI",
        grid=Grid(average.shape[1:], None),
        extras={RESPONSES: responses},
    )


def is_response(scan: Scan) -> bool:
    """Whether a scan is what `as_scan` makes, not a picture."""
    responses = scan.extras.get(RESPONSES)
    return responses is not None and scan.array.shape == (1, 1, responses.shape[-1])


def standardise(run: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Give every voxel mean 0 and deviation 1 over the samples of its run, ``samples voxels``.

    A voxel that never changes becomes 0; a run of one sample has nothing to be compared with and stays as it is.
    Source: official code (train and test samples of a run alike).

    >>> standardise(np.array([[1.0, 5.0], [3.0, 5.0]])).tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    """
    if len(run) < 2:
        return run.astype(np.float32)
    exact = run.astype(np.float64)
    centred = exact - exact.mean(axis=0)
    spread = centred.std(axis=0)
    still = spread <= 1e-9 * np.abs(exact).max(axis=0)
    scaled: NDArray[np.float64] = np.where(still, 0.0, centred / np.where(still, 1.0, spread))
    return scaled.astype(np.float32)


def reliability(
    responses: Sequence[NDArray[Any]], *, by_sample: bool = False
) -> NDArray[np.float32]:
    """Measure how much of each voxel's variance stimuli explain, divided by its mean over voxels.

    Variance over stimuli of the average response, by the mean over stimuli of the variance over repeats.

    Parameters
    ----------
    responses
        One array ``repeats voxels`` a stimulus; stimuli that were shown once tell nothing and are left out.
    by_sample
        Weigh each stimulus by its repeats, as the official code does, which loops over samples; equal where all have
        as many.

    Returns
    -------
    array
        ``voxels``, mean 1; all ones where fewer than two stimuli were repeated, or no voxel is reliable.
    """
    repeated = [each.astype(np.float64) for each in responses if len(each) > 1]
    voxels = responses[0].shape[-1] if len(responses) else 0
    if len(repeated) < 2:
        return np.ones(voxels, np.float32)
    signal = np.stack([each.mean(axis=0) for each in repeated]).var(axis=0)
    weights = [len(each) if by_sample else 1 for each in repeated]
    noise = np.average(np.stack([each.var(axis=0) for each in repeated]), axis=0, weights=weights)
    ratio = np.divide(signal, noise, out=np.zeros_like(signal), where=noise > 0)
    mean = float(ratio.mean())
    if not mean > 0:
        return np.ones(voxels, np.float32)
    relative: NDArray[np.float64] = ratio / mean
    return relative.astype(np.float32)


def common_voxels(records: Sequence[Record]) -> int:
    """Count the voxels of the responses of one person.

    Raises
    ------
    DataError
        There is no response, responses differ in their voxels, or they are of several people.
    """
    heard = [record for record in records if record.source.responses]
    if not heard:
        raise DataError(
            f"none of {len(records)} scans has a response of a brain",
            "Give a manifest whose column `response` names samples of runs: "
            "stimuli/cat.png,runs/run07.npy#12 (image,response).",
        )
    people = sorted({record.subject for record in heard})
    if len(people) > 1:
        raise DataError(
            f"the responses are of {len(people)} people ({', '.join(people[:3])}), whose voxels do not correspond",
            "Write a manifest for each person.",
        )
    counts: dict[int, list[Record]] = {}
    for record in heard:
        counts.setdefault(record.extras[RESPONSES].shape[-1], []).append(record)
    if len(counts) > 1:
        told = [f"{size} voxels in {rows[0].source.name}" for size, rows in sorted(counts.items())]
        raise DataError(
            f"responses differ in their voxels: {', '.join(told[:3])}",
            "Cut the same region out of all runs: the column `region` names its mask.",
        )
    return next(iter(counts))


def require_voxels(record: Record, voxels: int) -> None:
    """Refuse a record whose responses cannot be read by what learnt from so many voxels.

    Raises
    ------
    DataError
        It has no response, or responses of other voxels.
    """
    if not record.source.responses:
        fact = "has no response to reconstruct a picture from"
        raise DataError(fact, "Name its response in the manifest's column `response`.")
    found = common_voxels([record])
    if found != voxels:
        raise DataError(
            f"has responses of {found} voxels, and the run learnt from {voxels}",
            "Give responses of the same person and region.",
        )


def _read_one(one: Recording, region: ScanFile | None) -> NDArray[np.float32]:
    run = _run(_identity(one.file), None if region is None else _identity(region))
    path = one.file.path
    at = one.sample or 0
    if one.sample is None and len(run) > 1:
        raise ScanError(
            f"{path} holds {len(run)} samples, and the manifest does not say which",
            f"Name one: {path.name}#0 is the first.",
        )
    if at >= len(run):
        raise ScanError(
            f"{path} has {len(run)} samples, and the manifest names sample {at}",
            f"Samples are counted from 0: the last is {path.name}#{len(run) - 1}.",
        )
    sample: NDArray[np.float32] = run[at]
    return sample


_Identity = tuple[str, str, int, int]  # format, path, size, time: another file, another entry


def _identity(file: ScanFile) -> _Identity:
    size = require_file(file.path)
    return file.format, str(file.path), size, file.path.stat().st_mtime_ns


@lru_cache(maxsize=4)  # the rows of one run stand together in a manifest
def _run(file: _Identity, region: _Identity | None) -> NDArray[np.float32]:
    """Read a run, ``samples voxels``, standardised."""
    kind, path = file[0], Path(file[1])
    samples = _array_samples(path) if kind == "npy" else _volume_samples(path, region)
    if samples.ndim != 2 or not samples.size or samples.dtype.kind not in "fiub":
        raise ScanError(
            f"{path} has shape {samples.shape} of {samples.dtype}, and a run is samples x voxels of numbers",
            "Save a two-dimensional array with numpy.save: a row a sample, a column a voxel.",
        )
    if not np.isfinite(samples).all():
        raise ScanError(
            f"{path} holds responses that are not finite numbers",
            "Leave the voxels or samples out, or replace them by the voxel's mean.",
        )
    return standardise(samples)


def _array_samples(path: Path) -> NDArray[Any]:
    with guarded(path, "a NumPy array"):
        array: NDArray[Any] = np.load(path, allow_pickle=False)
        return array[None] if array.ndim == 1 else array


def _volume_samples(path: Path, region: _Identity | None) -> NDArray[Any]:
    series = _volumes(path)
    if series.ndim == 3:
        series = series[..., None]
    if series.ndim != 4:
        raise ScanError(
            f"{path} has {series.ndim} axes", "Give volumes over time: three axes and time."
        )
    if region is None:
        return series.reshape(-1, series.shape[-1]).T
    inside = np.squeeze(_volumes(Path(region[1]))) > 0
    if inside.shape != np.squeeze(series[..., 0]).shape:
        raise ScanError(
            f"the region {region[1]} has {inside.shape} voxels, and the volumes of {path} have {series.shape[:3]}",
            "Resample the region onto the grid of the run.",
        )
    if not inside.any():
        raise ScanError(f"the region {region[1]} is empty", "Mark its voxels by numbers above 0.")
    return series[inside.reshape(series.shape[:3])].T


def _volumes(path: Path) -> NDArray[np.float32]:
    import nibabel

    with guarded(path, "NIfTI"):
        image: Any = nibabel.load(path)
        return np.asarray(image.dataobj, np.float32)
