"""One file of the prepared store: a checked header, then compressed arrays; written whole or not at all.

Layout: 8 bytes of magic with the version, 8 of the header's length, 8 of the file's length, 16 of the blake2b
digest of all that and the header; the header (JSON, deflated); arrays, as `arrays.encode` gives them.  Nothing in it names a file, a person
or a date.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlabeled.data.arrays import StoredArray, encode
from unlabeled.data.atomic import write_atomically
from unlabeled.data.intensity import Statistics
from unlabeled.data.scan import Grid

VERSION = 3
_PREFACE = struct.Struct("<8sQQ16s")
_ALIGNED = 8  # where arrays begin [byte]
_MAGIC = b"UNLABEL" + bytes([VERSION])


class DamagedEntryError(Exception):
    """A file of the store is not a complete entry of this version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What is known of a prepared scan besides its voxels.

    Parameters
    ----------
    spacing, affine, modality, slope, intercept, grid
        As in `Scan`, after preparation.
    foreground
        Start and stop of the foreground box along each axis of space [voxel].
    statistics
        One entry for each group of channels, in order.
    """

    spacing: tuple[float, ...] | None
    affine: NDArray[np.float64] | None
    modality: str
    slope: float
    intercept: float
    grid: Grid
    foreground: tuple[tuple[int, int], ...]
    statistics: tuple[Statistics, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """An opened header: what is known of the scan, and where its arrays lie in the file."""

    about: About
    arrays: Mapping[str, StoredArray]


def write_entry(path: Path, about: About, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write one prepared scan; whoever looks sees nothing or all of it, whenever the process dies.

    Parameters
    ----------
    path
        Where it will stand.
    about
        Geometry and statistics.
    arrays
        ``channel *space`` by name; ``image`` is one of them.

    Raises
    ------
    OSError
        If the disk is full or the folder cannot be written; nothing is left behind.
    """
    coded = {name: encode(array) for name, array in arrays.items()}
    plain = {
        "about": _about_as_plain(about),
        "arrays": [
            [name, arrays[name].shape, arrays[name].dtype.str, len(data), low]
            for name, (data, low) in coded.items()
        ],
    }
    header = zlib.compress(json.dumps(plain, separators=(",", ":")).encode(), 6)
    parts: list[bytes | memoryview] = [_PREFACE.pack(bytes(8), 0, 0, bytes(16)), header]
    for data, _ in coded.values():
        parts += [bytes(-sum(map(len, parts)) % _ALIGNED), data]
    total = sum(map(len, parts))
    digest = _digest(_MAGIC, len(header), total, header)
    parts[0] = _PREFACE.pack(_MAGIC, len(header), total, digest)
    write_atomically(path, *parts)


def read_entry(path: Path) -> Entry:
    """Read and check the header of one prepared scan; no voxel is read.

    Raises
    ------
    FileNotFoundError
        If there is none.
    DamagedEntryError
        If it is truncated, of another version or its header is not what was written.
    """
    with path.open("rb", buffering=4096) as file:
        preface = file.read(_PREFACE.size)
        if len(preface) < _PREFACE.size:
            raise DamagedEntryError(path)
        magic, length, total, digest = _PREFACE.unpack(preface)
        if magic != _MAGIC or total != os.fstat(file.fileno()).st_size or length > total:
            raise DamagedEntryError(path)
        header = file.read(length)
    if digest != _digest(magic, length, total, header):
        raise DamagedEntryError(path)
    plain = json.loads(zlib.decompress(header))
    offset = _PREFACE.size + length
    arrays = {}
    for name, shape, dtype, size, low in plain["arrays"]:
        offset += -offset % _ALIGNED
        arrays[name] = StoredArray(path, offset, size, tuple(shape), np.dtype(dtype), low)
        offset += size
    return Entry(_about_from_plain(plain["about"]), arrays)


def _digest(magic: bytes, length: int, total: int, header: bytes) -> bytes:
    text = magic + struct.pack("<QQ", length, total) + header
    return hashlib.blake2b(text, digest_size=16).digest()


def _about_as_plain(about: About) -> dict[str, Any]:
    return {
        "spacing": about.spacing,
        "affine": _affine_as_plain(about.affine),
        "modality": about.modality,
        "slope": about.slope,
        "intercept": about.intercept,
        "grid": [about.grid.shape, _affine_as_plain(about.grid.affine)],
        "foreground": about.foreground,
        "statistics": [
            [part.channels, part.modality, part.mean, part.std, _quantiles_as_text(part)]
            for part in about.statistics
        ],
        "lowest": [part.lowest for part in about.statistics],
    }


def _about_from_plain(plain: Mapping[str, Any]) -> About:
    shape, affine = plain["grid"]
    groups = plain["statistics"]
    lowest = plain.get("lowest") or [None] * len(groups)  # unknown to entries of earlier releases
    return About(
        spacing=None if plain["spacing"] is None else tuple(plain["spacing"]),
        affine=_affine_from_plain(plain["affine"]),
        modality=plain["modality"],
        slope=plain["slope"],
        intercept=plain["intercept"],
        grid=Grid(tuple(shape), _affine_from_plain(affine)),
        foreground=tuple((first, last) for first, last in plain["foreground"]),
        statistics=tuple(
            Statistics(
                channels,
                modality,
                mean,
                std,
                np.frombuffer(base64.b64decode(quantiles), "<f4"),
                least,
            )
            for (channels, modality, mean, std, quantiles), least in zip(
                groups, lowest, strict=True
            )
        ),
    )


def _quantiles_as_text(statistics: Statistics) -> str:
    return base64.b64encode(statistics.quantiles.astype("<f4").tobytes()).decode()


def _affine_as_plain(affine: NDArray[np.float64] | None) -> list[list[float]] | None:
    return None if affine is None else [[float(number) for number in row] for row in affine]


def _affine_from_plain(plain: list[list[float]] | None) -> NDArray[np.float64] | None:
    return None if plain is None else np.asarray(plain, np.float64)
