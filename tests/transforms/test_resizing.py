"""Crops that are enlarged again, and the interpolation behind them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.rng import generator
from unlabeled.transforms.resizing import CropResize, resize_linear, resize_smooth

OFFICIAL = CropResize(100 / 192, 10 / 192, 69 / 192)


def test_golden_crop(golden: Path) -> None:
    arrays = np.load(golden / "global-local-contrast" / "crop_resize.npz")
    image, box = torch.from_numpy(arrays["image"]), int(arrays["box"])
    row, column = int(arrays["row_start"][0]), int(arrays["col_start"][0])
    cut = image[row : row + box, column : column + box]
    np.testing.assert_allclose(resize_linear(cut, (192, 192)), arrays["output"], atol=1e-5)


def test_official_boxes() -> None:
    """100 voxels that start at 10 to 69, each of them."""
    seen = set()
    for seed in range(1500):
        rows, columns = OFFICIAL.draw((192, 192), generator(seed))
        assert rows.stop - rows.start == columns.stop - columns.start == 100
        seen |= {rows.start, columns.start}
    assert seen == set(range(10, 70))


@given(
    edges=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    share=st.floats(0.0, 1.0),
    seed=st.integers(0, 10**6),
)
def test_a_box_never_leaves_the_image(edges: tuple[int, int], share: float, seed: int) -> None:
    crop = CropResize(share, 10 / 192, 69 / 192)
    for box, edge in zip(crop.draw(edges, generator(seed)), edges, strict=True):
        assert 0 <= box.start < box.stop <= edge
    image = torch.rand(2, *edges)
    made = crop(image, generator(seed))
    assert made.shape == image.shape
    assert image.min() - 1e-5 <= made.min() <= made.max() <= image.max() + 1e-5


@given(old=st.integers(1, 30), more=st.integers(0, 30))
def test_a_ramp_stays_a_ramp_inside(old: int, more: int) -> None:
    new = old + more
    made = resize_linear(torch.arange(float(old)), (new,))
    at = (torch.arange(new) + 0.5) * old / new - 0.5
    inside = (at >= 0) & (at <= old - 1)
    torch.testing.assert_close(made[inside], at[inside].float(), atol=1e-5, rtol=0)


def test_the_whole_image_is_left_as_it_is() -> None:
    image = torch.rand(1, 9, 7)
    assert torch.equal(CropResize(1.0)(image, generator(0)), image)
    assert resize_linear(image, (9, 7)) is image


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_types_are_kept(dtype: torch.dtype) -> None:
    assert resize_linear(torch.rand(1, 4, 4, dtype=dtype), (8, 8)).dtype == dtype


@pytest.mark.parametrize("space", [(5, 20), (13, 9), (8, 8), (1, 3)])
def test_smooth_resizing_is_torchs_with_antialias(space: tuple[int, int]) -> None:
    image = torch.rand(2, 13, 9)
    theirs = torch.nn.functional.interpolate(image[None], space, mode="bilinear", antialias=True)
    torch.testing.assert_close(resize_smooth(image, space), theirs[0], atol=1e-5, rtol=0)


def test_smooth_resizing_of_volumes_keeps_ramps_and_constants() -> None:
    ramp = torch.arange(12.0).view(1, 1, 12, 1).expand(1, 7, 12, 5)
    small = resize_smooth(ramp, (4, 6, 9))
    assert small.shape == (1, 4, 6, 9)
    torch.testing.assert_close(small[0, 0, 1:-1, 0], torch.tensor([2.5, 4.5, 6.5, 8.5]))
    assert torch.equal(resize_smooth(ramp, (7, 12, 5)), ramp)
