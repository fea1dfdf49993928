"""L*a*b* is the field's, turning back loses nothing, and the dark border of a frame is found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.data.scan import Grid, Scan
from unlabeled.demo.frames import frame
from unlabeled.errors import ScanError
from unlabeled.transforms.colour import (
    HUNDREDTHS,
    INSIDE,
    LAB,
    KeepLab,
    inside_of,
    lab_to_rgb,
    rgb_to_lab,
)


def scan(levels: np.ndarray) -> Scan:
    array = levels[None] if levels.ndim == 2 else levels.transpose(2, 0, 1)
    grid = Grid(array.shape[1:], None)
    return Scan(array=array, spacing=None, affine=None, modality="", grid=grid)


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((1.0, 0.0, 0.0), (53.2406, 80.0923, 67.2028)),
        ((0.80, 0.36, 0.32), (53.0192, 43.7728, 27.6491)),
        ((0.5, 0.5, 0.5), (53.389, 0.0, 0.0)),
        ((1.0, 1.0, 1.0), (100.0, 0.0, 0.0)),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    ],
)
def test_known_colours(rgb, lab):
    found = rgb_to_lab(torch.tensor(rgb, dtype=torch.float64).view(3, 1, 1)).flatten()
    assert torch.allclose(found, torch.tensor(lab, dtype=torch.float64), atol=1e-2)


def test_lab_equals_scikit_images():
    color = pytest.importorskip("skimage.color")
    rgb = np.random.default_rng(0).random((17, 13, 3))
    ours = rgb_to_lab(torch.from_numpy(rgb.transpose(2, 0, 1))).numpy().transpose(1, 2, 0)
    assert np.abs(ours - color.rgb2lab(rgb)).max() < 1e-3


@given(seed=st.integers(0, 2**31), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_there_and_back_loses_nothing(seed, dtype):
    rgb = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    assert (lab_to_rgb(rgb_to_lab(rgb)) - rgb).abs().max() < 1 / 255 / 10


def test_colours_that_no_screen_shows_are_clipped():
    wild = torch.tensor([50.0, 110.0, -110.0]).view(3, 1, 1)
    shown = lab_to_rgb(wild)
    assert 0 <= float(shown.min()) <= float(shown.max()) <= 1


def test_a_frame_is_kept_as_lab_without_visible_loss():
    levels = frame(0, 32)
    kept = KeepLab(32)(scan(levels)).extras
    assert kept[LAB].dtype == np.int16
    back = lab_to_rgb(torch.from_numpy(kept[LAB] / HUNDREDTHS)).numpy().transpose(1, 2, 0)
    assert np.abs(back - levels / 255).max() < 1 / 255
    assert kept[INSIDE].all()


def test_the_shorter_side_is_resized():
    wide = np.concatenate([frame(0, 40), frame(1, 40)], axis=1)
    assert KeepLab(20)(scan(wide)).extras[LAB].shape == (3, 20, 40)
    assert KeepLab(20)(scan(wide)).extras[INSIDE].shape == (20, 40)


def test_the_dark_border_is_outside_and_dark_spots_within_are_not():
    levels = frame(3, 40, circle=True)
    levels[18:22, 18:22] = 0
    inside = inside_of(levels.transpose(2, 0, 1))
    rows, columns = np.meshgrid(*[np.linspace(-1, 1, 40)] * 2, indexing="ij")
    assert np.array_equal(inside, rows**2 + columns**2 <= 0.95)


def test_grey_frames_pass_and_volumes_are_refused():
    grey = scan(frame(0, 16)[..., 0])
    assert KeepLab(16)(grey) is grey
    volume = Scan(
        array=np.zeros((3, 4, 4, 4), np.uint8),
        spacing=None,
        affine=None,
        modality="",
        grid=Grid((4, 4, 4), None),
    )
    with pytest.raises(ScanError, match="no picture"):
        KeepLab(16)(volume)
