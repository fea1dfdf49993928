"""What readers hand over: the header of a file, what it stores in its own order, and one way to fail."""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from unlabeled.data.scan import Grid, ScanFile
from unlabeled.errors import ScanError

_ERROR_STREAM = threading.Lock()
_CHATTY = ("nibabel.global", "tifffile", "pydicom", "pydicom.pixels.decoders.base")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file says about its scan before any voxel is read.

    Parameters
    ----------
    shape
        Voxels along each axis of space: RAS order for volumes, (rows, columns) for pictures.
    channels
        Colour planes, or stored channels.
    dtype
        Type of the voxels as `read_scan` gives them.
    spacing
        Voxel edge lengths [mm]; None where unknown.
    affine
        4x4 of the reoriented array, RAS+ world [mm]; None where unknown.
    modality
        ``CT``, ``MR``, ``XR``, ``US``, ... or empty.
    colour
        Whether the channels are red, green and blue.
    frames
        Frames or pages over time in the file; 1 for a plain scan.
    notes
        What a person should know although the scan can be used; no personal data.
    grid
        The grid of the file before reorientation.
    """

    shape: tuple[int, ...]
    channels: int
    dtype: np.dtype[Any]
    spacing: tuple[float, ...] | None
    affine: NDArray[np.float64] | None
    modality: str
    colour: bool
    frames: int
    notes: tuple[str, ...]
    grid: Grid

    @property
    def dims(self) -> int:
        """Axes of space: 2 or 3."""
        return len(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What a file holds, in its own axis order; a reader fills it in without reading voxels.

    Parameters
    ----------
    shape
        Axes of space of the array that the reader gives.
    dtype
        Type of its voxels.
    affine
        Voxel to RAS+ world of that array [mm], or None.
    oriented
        Whether the affine says something: False for the identity that stands for "unknown".
    spacing
        Only where there is no usable affine.
    grid_shape
        The file's own axes, where they differ from `shape` (a NIfTI file with two axes).
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    channels: int = 1
    affine: NDArray[np.float64] | None = None
    oriented: bool = True
    spacing: tuple[float, ...] | None = None
    grid_shape: tuple[int, ...] | None = None
    modality: str = ""
    colour: bool = False
    frames: int = 1
    slope: float = 1.0
    intercept: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def grid(self) -> Grid:
        """The grid that predictions are written back onto."""
        return Grid(self.grid_shape or self.shape, self.affine)


class Reader(Protocol):
    """What each format's module offers."""

    def inspect(self, file: ScanFile, frame: int | None) -> Stored:
        """Read the header alone."""
        ...

    def load(
        self, file: ScanFile, frame: int | None, *, labels: bool
    ) -> tuple[Stored, NDArray[Any]]:
        """Read the header and the voxels, ``channel *space``; `labels` keeps palette indices."""
        ...


@dataclass(frozen=True, slots=True)
class Series:
    """One DICOM scan: a stack of slices, a multi-frame file or a picture.

    Parameters
    ----------
    file
        Its files, sorted by position.
    subject, study
        Pseudonyms; empty where the files name no patient and no study.
    modality
        As in `Header`.
    """

    file: ScanFile
    subject: str
    study: str
    modality: str


def require_file(path: Path) -> int:
    """Check that a path is an ordinary file that holds something; give its size [byte].

    Raises
    ------
    ScanError
        Missing, a folder, a pipe or device, empty, a link that leads to itself, or not permitted.
    """
    try:
        info = path.stat()
    except FileNotFoundError:
        what = "is a link to a file that is not there" if path.is_symlink() else "does not exist"
        raise ScanError(f"{path} {what}", "Correct the path, or leave the file out.") from None
    except OSError as error:
        raise _system_error(path, error) from None
    if stat.S_ISDIR(info.st_mode):
        raise ScanError(
            f"{path} is a folder, though its name is that of a file",
            "Rename the folder, or give the scans inside it.",
        )
    if not stat.S_ISREG(info.st_mode):
        raise ScanError(
            f"{path} is no ordinary file but a pipe, socket or device",
            "Copy its content into an ordinary file first.",
        )
    if info.st_size == 0:
        raise ScanError(f"{path} is empty (0 bytes)", "Copy or download the file again.")
    try:
        path.open("rb").close()
    except OSError as error:
        raise _system_error(path, error) from None
    return info.st_size


def _system_error(path: Path, error: OSError) -> ScanError:
    if error.errno == errno.ELOOP:
        return ScanError(f"{path} is a link that leads to itself", f"Remove it: rm '{path}'")
    if isinstance(error, PermissionError):
        return ScanError(f"{path} may not be read by this user", f"Allow it: chmod u+r '{path}'")
    reason = (error.strerror or type(error).__name__).lower()
    return ScanError(f"{path} cannot be opened: {reason}", "Copy or download the file again.")


@contextmanager
def guarded(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a library raises over a file into one `ScanError`, and keep its warnings quiet.

    Damaged files make libraries raise nearly anything.  Their messages may quote header values, and with them
    personal data; so only the kind of the error is passed on.
    """
    with warnings.catch_warnings(), _Silence():
        warnings.simplefilter("ignore")
        try:
            yield
        except ScanError:
            raise
        except MemoryError:
            raise ScanError(
                f"{path} does not fit into memory, or its header claims an impossible size",
                "Copy or download the file again; if it is intact, cut it into smaller parts.",
            ) from None
        except OSError as error:
            if error.errno is not None and error.strerror:
                raise _system_error(path, error) from error
            raise damaged(path, kind) from error
        except Exception as error:
            raise damaged(path, kind) from error


class _Silence(logging.Filter):
    """Keep the libraries' logged remarks about odd headers from the screen while a file is read."""

    def __enter__(self) -> None:
        for name in _CHATTY:
            logging.getLogger(name).addFilter(self)

    def __exit__(self, *error: object) -> None:
        for name in _CHATTY:
            logging.getLogger(name).removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Let nothing pass."""
        return False


@contextmanager
def hushed() -> Iterator[None]:
    """Keep from the screen what libraries in C print about damaged files, past Python's own streams.

    The error stream of the whole process is closed meanwhile; one thread at a time may do so.
    """
    with _ERROR_STREAM:
        try:
            kept = os.dup(2)
        except OSError:  # the process has no error stream
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


def damaged(path: Path, kind: str) -> ScanError:
    """Make the error of a file that breaks off or is not what its name says."""
    return ScanError(
        f"{path} cannot be read as {kind}: it is damaged, cut off, or of another format",
        "Copy or download the file again, or leave it out.",
    )


def plain_dtype(dtype: np.dtype[Any], path: Path) -> np.dtype[Any]:
    """Give the type that voxels get in memory: native integers as they are, everything else float32.

    >>> plain_dtype(np.dtype(">i2"), Path("scan.nii")).str in ("<i2", "=i2")
    True
    """
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype.kind in "iu":
        return dtype.newbyteorder("=")
    if dtype.kind == "f":
        return np.dtype(np.float32)
    kind = "complex numbers" if dtype.kind == "c" else f"values of type {dtype}"
    raise ScanError(f"{path} holds {kind}, no intensities", "Export magnitudes as real numbers.")
