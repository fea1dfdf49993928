"""What `check` learns of one scan: its header, or with `deep` every voxel of it and of its mask."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from unlabeled.data.fmri import as_scan, read_responses
from unlabeled.data.formats import read_header, read_mask, read_scan
from unlabeled.data.scan import Quarantined, Source
from unlabeled.errors import ScanError

THREADS = 8  # headers wait for the disk or the network more than for a processor


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One usable scan.

    Parameters
    ----------
    source
        Where it lies and whose it is.
    shape
        Voxels along each axis of space.
    channels
        Registered modalities, or stored channels of the single file.
    dtype
        Type of the voxels.
    spacing
        Voxel edge lengths [mm]; None where unknown.
    placed
        Whether an affine is known.
    modality
        From the index, else from the header; may be empty.
    colour
        Whether the channels are red, green and blue.
    frames
        Frames over time in the file.
    notes
        What a person should know although the scan can be used.
    labels
        With `deep`: the values of the mask.
    """

    source: Source
    shape: tuple[int, ...]
    channels: int
    dtype: str
    spacing: tuple[float, ...] | None
    placed: bool
    modality: str
    colour: bool
    frames: int
    notes: tuple[str, ...] = ()
    labels: frozenset[int] | None = None

    @property
    def dims(self) -> int:
        """Axes of space: 2 or 3."""
        return len(self.shape)


def look(source: Source, *, deep: bool = False) -> Seen | Quarantined:
    """Read the headers of a scan and its mask, with `deep` their voxels; a fault becomes a quarantine row."""
    try:
        return _look(source, deep=deep)
    except ScanError as error:
        return Quarantined.of(source.name, error)


def look_at_all(
    sources: Iterable[Source],
    *,
    deep: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Seen | Quarantined]:
    """Look at every scan, several at a time, in the order given.

    Parameters
    ----------
    sources
        Scans; taken in pieces, so that memory does not grow with them.
    deep
        Read every voxel.
    progress
        Called with the number of scans looked at so far.
    """
    done = 0
    with ThreadPoolExecutor(2 if deep else THREADS) as pool:
        for piece in _pieces(sources, 64):
            for result in pool.map(lambda source: look(source, deep=deep), piece):
                done += 1
                if progress is not None:
                    progress(done)
                yield result


def _pieces(sources: Iterable[Source], size: int) -> Iterator[list[Source]]:
    piece: list[Source] = []
    for source in sources:
        piece.append(source)
        if len(piece) == size:
            yield piece
            piece = []
    yield piece


def _look(source: Source, *, deep: bool) -> Seen:
    if source.is_response:
        return _look_at_response(source)
    headers = [read_header(file, frame=source.frame) for file in source.channels]
    first = headers[0]
    for file, header in zip(source.channels[1:], headers[1:], strict=True):
        if header.shape != first.shape:
            raise ScanError(
                f"{file.path} has {_size(header.shape)} voxels, but {source.channels[0].path}, its first "
                f"modality, has {_size(first.shape)}",
                "Resample it onto the first file's grid, or list it as a scan of its own.",
            )
    notes = [note for header in headers for note in header.notes]
    labels: frozenset[int] | None = None
    if deep:
        scan = read_scan(source)
        if source.responses:
            read_responses(source)
        if source.mask is not None:
            mask = read_mask(source.mask, scan, frame=source.frame)
            labels = frozenset(int(value) for value in np.unique(mask))
            if labels <= {0}:
                notes.append("the mask is empty: background alone")
    elif source.mask is not None:
        mask_shape = read_header(source.mask).shape
        # A mask may lack the orientation that its scan has: then its axes are in another order.
        if sorted(mask_shape) != sorted(first.shape):
            raise ScanError(
                f"{source.mask.path} has {_size(mask_shape)} voxels, but its scan has {_size(first.shape)}",
                "Export the mask on the grid of its scan.",
            )
    return Seen(
        source=source,
        shape=first.shape,
        channels=sum(header.channels for header in headers),
        dtype=str(first.dtype),
        spacing=first.spacing,
        placed=first.affine is not None,
        modality=source.modality
        or ";".join(dict.fromkeys(h.modality for h in headers if h.modality)),
        colour=len(headers) == 1 and first.colour,
        frames=max(header.frames for header in headers),
        notes=tuple(dict.fromkeys(notes)),
        labels=labels,
    )


def _look_at_response(source: Source) -> Seen:
    scan = as_scan(source)
    return Seen(
        source=source,
        shape=scan.array.shape[1:],
        channels=1,
        dtype=str(scan.array.dtype),
        spacing=None,
        placed=False,
        modality=scan.modality,
        colour=False,
        frames=1,
        notes=(),
        labels=None,
    )


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
