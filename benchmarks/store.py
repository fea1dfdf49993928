"""Random crops, size and writing: the prepared store against nnU-Net's own blosc2 store.

Both run in one process on the same synthetic CT, in turn; times are processor times, medians over rounds.  nnU-Net's
side is its code: `comp_blosc2_params` and `nnUNetDatasetBlosc2.save_case` for float32 voxels with its defaults; a crop is
what its loader does for the image: `blosc2.open` with the arguments of `load_case` (its mask and its properties are not
opened), `crop_and_pad_nd`, a tensor; ours is `Record.patch`, which opens its file within every crop as well and delivers
rescaled float32.  The ratio without their opening stands beside it.  A segmentation of one voxel keeps
what nnU-Net stores besides the image out of the figures.

`profile_ms` says where our crop's time goes: `unpacking` alone, from memory into an array in use; `opening_and_calls`,
which is a patch of one voxel; the rest of `whole` is first touching pages of the file and of the result.

Its pieces are for this benchmark only and belong into an environment of their own::

    pip install --no-deps nnunetv2==2.8.1 acvl-utils==0.2.6 batchgenerators==0.25.5 dynamic-network-architectures==0.4.4
    python benchmarks/store.py
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import torch
from _common import alternate, keep, median_ratio
from numpy.typing import NDArray
from scipy import ndimage

from unlabeled.data.entry import read_entry, write_entry
from unlabeled.data.intensity import IntensityRule
from unlabeled.data.kernels import scaling
from unlabeled.data.packing import unpack, view_packed
from unlabeled.data.preparation import Recipe, prepare_scan
from unlabeled.data.record import Record, entry_path
from unlabeled.data.scan import Grid, Scan, ScanFile, Source

EDGE = 96


def phantom(space: tuple[int, int, int], seed: int = 0) -> NDArray[np.int16]:
    """A chest-like CT [HU]: body, lungs, heart, spine, ribs and table; texture; noise correlated in the plane.

    Noise is 12 HU in air and 18 HU in tissue; -1024 outside the round field of view.
    """
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(*(np.linspace(-1, 1, edge) for edge in space[:2]), indexing="ij")
    coarse = [max(2, edge // 16) for edge in space]
    zoom = [edge / few for edge, few in zip(space, coarse, strict=True)]
    texture = ndimage.zoom(rng.normal(0, 12, coarse).astype(np.float32), zoom, order=1)
    volume = np.empty(space, np.int16)
    for index in range(space[2]):
        z = 2 * index / space[2] - 1
        hu = np.full(space[:2], -1000.0)
        body = (x / (0.80 + 0.05 * np.cos(3 * z))) ** 2 + ((y + 0.05) / 0.55) ** 2
        hu[(np.abs(y - 0.62) < 0.02) & (np.abs(x) < 0.7)] = -200  # table
        hu[body < 1] = -100  # fat
        hu[body < 0.85] = 50  # muscle
        for side in (-1, 1):
            lung = ((x - side * 0.36) / 0.26) ** 2 + ((y + 0.08) / 0.32) ** 2 + (z / 0.8) ** 2
            hu[lung < 1] = -830
        hu[(x / 0.12) ** 2 + ((y + 0.02) / 0.16) ** 2 + (z / 0.5) ** 2 < 1] = 180  # heart
        bone = (x / 0.09) ** 2 + ((y - 0.30) / 0.09) ** 2 < 1
        hu[bone] = 350 + 250 * (np.cos(24 * z) > -0.6)
        hu[(np.abs(body - 0.78) < 0.035) & (np.cos(30 * z + 6 * np.arctan2(y, x)) > 0.5)] = (
            600  # ribs
        )
        tissue = hu > -900
        noise = ndimage.gaussian_filter(rng.normal(0, 1, space[:2]), 0.6)
        noise *= np.where(tissue, 18, 12) / noise.std()
        hu = ndimage.gaussian_filter(hu, 0.8) + noise + tissue * texture[..., index]
        hu[x * x + y * y > 1] = -1024
        volume[..., index] = np.clip(np.rint(hu), -1024, 3071)
    return volume


class Theirs:
    """nnU-Net's store in a folder, written and read by its own code."""

    def __init__(self, folder: Path, volume: NDArray[np.int16]) -> None:
        from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
        from nnunetv2.training.dataloading.nnunet_dataset import (
            comp_blosc2_params,
            nnUNetDatasetBlosc2,
        )

        folder.mkdir()
        self.crop_and_pad = crop_and_pad_nd
        self.folder = folder
        self.scans = nnUNetDatasetBlosc2(str(folder))  # once, as a loader does; it sets one thread
        mean, std = np.float32(volume.mean()), np.float32(volume.std())
        self.image = ((volume.astype(np.float32) - mean) / std)[None]
        self.mask = np.zeros((1, 1, 1, 1), np.int16)
        self.blocks, self.chunks = comp_blosc2_params(self.image.shape, (EDGE,) * 3, 4)

    def write(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()
        one = (1, 1, 1, 1)
        self.scans.save_case(
            self.image,
            self.mask,
            {},
            str(self.folder / "scan"),
            chunks=self.chunks,
            blocks=self.blocks,
            chunks_seg=one,
            blocks_seg=one,
        )

    def open(self) -> Any:
        path = str(self.folder / "scan.b2nd")
        threads: dict[str, Any] = {"nthreads": 1}
        return blosc2.open(urlpath=path, mode="r", dparams=threads, **self.scans.mmap_kwargs)

    def crop(self, image: Any, start: list[int]) -> torch.Tensor:
        box = [[first, first + EDGE] for first in start]
        return torch.from_numpy(self.crop_and_pad(image, box, 0)).float()

    def size(self) -> int:
        return (self.folder / "scan.b2nd").stat().st_size


class Ours:
    """The prepared store."""

    def __init__(self, folder: Path, volume: NDArray[np.int16]) -> None:
        affine = np.diag([0.8, 0.8, 1.0, 1.0])
        self.scan = Scan(
            array=volume[None],
            spacing=(0.8, 0.8, 1.0),
            affine=affine,
            modality="CT",
            grid=Grid(volume.shape, affine),
        )
        source = Source(name="scan", channels=(ScanFile((Path("scan"),), "npy"),), subject="one")
        self.record = Record("scan", source, IntensityRule(), str(folder))

    def write(self) -> None:
        about, arrays = prepare_scan(self.scan, None, Recipe())
        write_entry(entry_path(self.record.folder, self.record.key), about, arrays)

    def crop(self, start: list[int]) -> torch.Tensor:
        return self.record.patch(start, (EDGE,) * 3)

    def size(self) -> int:
        return self.record.path.stat().st_size

    def profile(self, starts: list[list[int]]) -> dict[str, float]:
        """Give the parts of a crop's time [ms]."""
        image = self.record.image
        low = image.low or 0
        about = read_entry(self.record.path).about
        numbers = [scaling(self.record.rescalings[0], about.slope, about.intercept)]
        with self.record.path.open("rb") as file:
            file.seek(image.offset)
            packed = view_packed(memoryview(file.read(image.length)), image.shape)
        out = np.empty((1, EDGE, EDGE, EDGE), np.float32)
        parts: dict[str, Callable[[list[int]], Any]] = {
            "whole": self.crop,
            "unpacking": lambda start: unpack(packed, low, start, numbers, out),
            "opening_and_calls": lambda start: self.record.patch(start, (1, 1, 1)),
        }
        taken: dict[str, list[float]] = {name: [] for name in parts}
        for start in starts:
            for name, part in parts.items():
                began = time.process_time()
                part(start)
                taken[name].append(1e3 * (time.process_time() - began))
        return {name: statistics.median(values) for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", type=int, nargs=3, default=(512, 512, 300))
    parser.add_argument("--writes", type=int, default=5)
    parser.add_argument("--crops", type=int, default=200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    volume = phantom(tuple(given.space))
    clock = time.process_time
    with tempfile.TemporaryDirectory() as folder:
        theirs = Theirs(Path(folder, "theirs"), volume)
        ours = Ours(Path(folder, "ours"), volume)
        writing = alternate({"nnunet": theirs.write, "ours": ours.write}, given.writes, clock)
        rng = np.random.default_rng(1)
        starts = [
            [int(rng.integers(0, edge - EDGE + 1)) for edge in volume.shape]
            for _ in range(given.crops)
        ]
        seconds: dict[str, list[float]] = {"open": [], "nnunet": [], "ours": []}
        for start in [starts[0], *starts]:
            began = clock()
            image = theirs.open()
            opened = clock()
            their_patch = theirs.crop(image, start)
            cropped = clock()
            our_patch = ours.crop(start)
            done = clock()
            for name, taken in zip(
                seconds, (opened - began, cropped - opened, done - cropped), strict=True
            ):
                seconds[name].append(taken)
        cut = tuple(slice(first, first + EDGE) for first in start)
        right = (np.clip(volume[cut].astype(np.float32), -1000, 1000) + 1000) / 2000
        if not np.allclose(our_patch[0].numpy(), right, atol=1e-6):
            raise SystemExit("the store's crop is wrong")
        if not np.array_equal(their_patch[0].numpy(), theirs.image[0][cut]):
            raise SystemExit("nnU-Net's crop is wrong")
        seconds = {name: taken[1:] for name, taken in seconds.items()}
        with_opening = [a + b for a, b in zip(seconds["open"], seconds["nnunet"], strict=True)]
        figures = {
            "volume": f"{'x'.join(map(str, given.space))} int16, synthetic CT",
            "nnunet_layout": {"blocks": theirs.blocks[1:], "chunks": theirs.chunks[1:]},
            "crop_96_cpu_ms": {
                name: 1e3 * statistics.median(taken) for name, taken in seconds.items()
            },
            "profile_ms": ours.profile(starts),
            "crop_cost_ratio": median_ratio(seconds["ours"], with_opening),
            "crop_cost_ratio_without_their_opening": median_ratio(
                seconds["ours"], seconds["nnunet"]
            ),
            "size_mb": {"nnunet": theirs.size() / 1e6, "ours": ours.size() / 1e6},
            "size_ratio": ours.size() / theirs.size(),
            "write_cpu_s": {name: statistics.median(taken) for name, taken in writing.items()},
            "write_speed_ratio": median_ratio(writing["nnunet"], writing["ours"]),
            "goals": {"crop_cost_ratio": 0.2, "size_ratio": 0.5, "write_speed_ratio": 8},
        }
        keep("store", figures)


if __name__ == "__main__":
    main()
