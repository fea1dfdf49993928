"""Models Genesis' damage to one patch: the package against a plain NumPy version written from the paper's recipe.

Run ``python benchmarks/models_genesis_transforms.py``.  Both versions do the whole chain on one thread at the
published rates (flip 0.4, shuffle 0.5 with 10000 windows, intensity 0.9, paint 0.9 of which 0.2 in-painting);
rounds alternate, times are processor times a sample, medians over rounds.  The functions whose names start with
``plain_`` take what was drawn as arguments, so the tests apply one and the same plan with both versions.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from unlabeled.transforms.intensity import BezierIntensity
from unlabeled.transforms.masking import Paint
from unlabeled.transforms.shuffling import LocalShuffle
from unlabeled.transforms.spatial import RepeatedFlip

Array = NDArray[np.float32]


def plain_shuffle(
    image: Array, windows: Sequence[Sequence[int]], orders: Sequence[NDArray[np.int64]]
) -> Array:
    """Read each window of ``channel *space`` from the intact image, permute it, write it to the output."""
    dims = image.ndim - 1
    shuffled = image.copy()
    for window, order in zip(windows, orders, strict=True):
        cuts = (slice(at, at + side) for at, side in zip(window[:dims], window[dims:], strict=True))
        region = (slice(None), *cuts)
        values = image[region]
        flat = values.reshape(len(image), -1)
        shuffled[region] = flat[:, order].reshape(values.shape)
    return shuffled


def plain_curve(
    first: Sequence[float], second: Sequence[float], points: int = 100_000
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sample the cubic Bezier curve; the parameter 0 is at (1, 1), as published."""
    t = np.linspace(0.0, 1.0, points)
    weights = np.stack([t**3, 3 * t**2 * (1 - t), 3 * t * (1 - t) ** 2, (1 - t) ** 3])
    x = np.array([0.0, first[0], second[0], 1.0]) @ weights
    y = np.array([0.0, first[1], second[1], 1.0]) @ weights
    return x, y


def plain_intensity(
    image: Array, first: Sequence[float], second: Sequence[float], inverted: bool
) -> Array:
    """Interpolate on the sampled curve: abscissae sorted, ordinates sorted unless the curve is inverted."""
    x, y = plain_curve(first, second)
    return np.interp(image, np.sort(x), y if inverted else np.sort(y)).astype(np.float32)


def plain_boxes(
    space: Sequence[int], edges: Callable[[int], int], certain: int
) -> list[tuple[list[int], list[int]]]:
    """Draw up to five boxes, at least 3 voxels from the borders."""
    boxes: list[tuple[list[int], list[int]]] = []
    while len(boxes) < certain or (len(boxes) < 5 and random.random() < 0.95):
        size = [edges(edge) for edge in space]
        start = [random.randint(3, edge - side - 3) for edge, side in zip(space, size, strict=True)]
        boxes.append((start, size))
    return boxes


def plain_inpaint(
    image: Array, boxes: Sequence[tuple[Sequence[int], Sequence[int]]], noises: Sequence[Array]
) -> Array:
    """Write noise into the boxes."""
    painted = image.copy()
    for (start, size), noise in zip(boxes, noises, strict=True):
        cuts = (slice(at, at + side) for at, side in zip(start, size, strict=True))
        painted[(slice(None), *cuts)] = noise
    return painted


def plain_outpaint(
    image: Array, boxes: Sequence[tuple[Sequence[int], Sequence[int]]], noise: Array
) -> Array:
    """Keep the boxes, all else becomes noise."""
    painted = noise.copy()
    for start, size in boxes:
        cuts = tuple(slice(at, at + side) for at, side in zip(start, size, strict=True))
        painted[(slice(None), *cuts)] = image[(slice(None), *cuts)]
    return painted


def plain_sample(intact: Array, draws: np.random.Generator, windows: int = 10_000) -> Array:
    """Damage one patch, drawing as it goes."""
    space = intact.shape[1:]
    for _ in range(3):
        if random.random() >= 0.4:
            break
        intact = np.flip(intact, random.randrange(len(space)) + 1)
    image = np.ascontiguousarray(intact)
    if random.random() < 0.5:
        largest = np.maximum(1, np.array(space) // 10)
        sizes = draws.integers(1, largest, (windows, len(space)), endpoint=True)
        starts = draws.integers(0, np.array(space) - sizes, endpoint=True)
        orders = [draws.permutation(volume) for volume in sizes.prod(axis=1).tolist()]
        image = plain_shuffle(image, np.hstack([starts, sizes]).tolist(), orders)
    if random.random() < 0.9:
        inner = draws.random((2, 2))
        image = plain_intensity(image, inner[0], inner[1], random.random() < 0.5)
    if random.random() < 0.9:
        if random.random() < 0.2:
            boxes = plain_boxes(space, lambda e: random.randint(e // 6, e // 3), 0)
            noises = [draws.random((len(image), *size), np.float32) for _, size in boxes]
            image = plain_inpaint(image, boxes, noises)
        else:
            boxes = plain_boxes(space, lambda e: e - random.randint(3 * e // 7, 4 * e // 7), 1)
            image = plain_outpaint(image, boxes, draws.random(image.shape, np.float32))
    return image


def fast_sample(intact: torch.Tensor, rng: torch.Generator, windows: int = 10_000) -> torch.Tensor:
    """Damage one patch with the package's transforms."""
    image = RepeatedFlip(0.4)(intact, rng)
    image = LocalShuffle(0.5, windows)(image, rng)
    return Paint(0.9, 0.2)(BezierIntensity(0.9)(image, rng), rng)


def measure(work: Callable[[], object], count: int) -> float:
    """Give the processor time of one call [ms], averaged over `count` calls."""
    start = time.process_time()
    for _ in range(count):
        work()
    return (time.process_time() - start) / count * 1e3


def main() -> None:
    """Measure, print and keep the figures."""
    from _common import keep  # the tests import this file for its plain functions

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--samples", type=int, default=20, help="plain samples a round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    draws = np.random.default_rng(0)
    rng = torch.Generator().manual_seed(0)
    intact = torch.from_numpy(phantom((64, 64, 32)))[None]
    fast_sample(intact, rng)
    plain, fast = [], []
    for _ in range(options.rounds):
        plain.append(measure(lambda: plain_sample(intact.numpy(), draws), options.samples))
        fast.append(measure(lambda: fast_sample(intact, rng), 20 * options.samples))
    figures = {
        "patch": [64, 64, 32],
        "plain_ms": round(statistics.median(plain), 2),
        "fast_ms": round(statistics.median(fast), 3),
        "ratio": round(statistics.median(p / f for p, f in zip(plain, fast, strict=True)), 1),
    }
    keep("models_genesis_transforms", figures)


def phantom(space: tuple[int, ...]) -> Array:
    """Make a smooth image in [0, 1] with a little texture, as organs have."""
    axes = np.meshgrid(*[np.linspace(-1, 1, edge) for edge in space], indexing="ij")
    smooth = 0.5 + 0.4 * np.sin(sum((i + 2) * axis for i, axis in enumerate(axes)))
    texture = 0.05 * np.random.default_rng(1).standard_normal(space)
    return np.clip(smooth + texture, 0, 1).astype(np.float32)


if __name__ == "__main__":
    main()
