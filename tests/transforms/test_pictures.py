"""Square pictures in three colours, and responses that pass as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unlabeled.data.fmri import RESPONSES
from unlabeled.data.scan import Grid, Scan
from unlabeled.data.stimuli import PICTURE
from unlabeled.errors import ScanError
from unlabeled.transforms.pictures import SquarePicture, as_square


def scan(array: np.ndarray, **extras: np.ndarray) -> Scan:
    grid = Grid(array.shape[1:], None)
    return Scan(array=array, spacing=None, affine=None, modality="", grid=grid, extras=extras)


def test_the_middle_square_is_kept():
    levels = np.zeros((3, 6, 10), np.uint8)
    levels[:, :, 2:8] = np.arange(108, dtype=np.uint8).reshape(3, 6, 6)
    kept = SquarePicture((6, 6))(scan(levels)).extras[PICTURE]
    np.testing.assert_array_equal(kept, levels[:, :, 2:8])


def test_pictures_are_resized_to_the_edges_asked_for():
    rng = np.random.default_rng(0)
    made = SquarePicture((16, 24))(scan(rng.integers(0, 256, (3, 50, 40), np.uint8)))
    assert made.extras[PICTURE].shape == (3, 16, 24)
    assert made.extras[PICTURE].dtype == np.uint8
    flat = SquarePicture((16, 16))(scan(np.full((3, 9, 9), 77, np.uint8)))
    assert (flat.extras[PICTURE] == 77).all()


def test_grey_becomes_three_equal_channels():
    grey = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    kept = SquarePicture((8, 8))(scan(grey)).extras[PICTURE]
    for channel in kept:
        np.testing.assert_array_equal(channel, grey[0])


@pytest.mark.parametrize(
    ("kind", "white"), [(np.uint8, 255), (np.uint16, 65535), (np.int32, 255), (np.float32, 1.0)]
)
def test_white_is_that_of_the_type(kind, white):
    array = np.array([[[0, white], [white, 0]]], kind)
    assert SquarePicture((2, 2))(scan(array)).extras[PICTURE][0].tolist() == [[0, 255], [255, 0]]


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((1, 4, 4, 4), np.uint8),
        np.zeros((4, 8, 8), np.uint8),
        np.full((1, 8, 8), -3, np.int16),
        np.full((1, 8, 8), 7.0, np.float32),
    ],
)
def test_what_is_no_picture_is_refused(array):
    with pytest.raises(ScanError, match=r"is no picture|has intensities"):
        SquarePicture((8, 8))(scan(array))


def test_responses_without_a_picture_pass():
    responses = np.zeros((1, 2, 9), np.float32)
    alone = scan(responses.mean(1, keepdims=True), **{RESPONSES: responses})
    assert SquarePicture((8, 8))(alone) is alone
    pair = scan(np.zeros((1, 8, 8), np.uint8), **{RESPONSES: responses})
    assert set(SquarePicture((8, 8))(pair).extras) == {PICTURE, RESPONSES}


def test_voxels_are_laid_out_as_a_square():
    assert as_square(torch.zeros(2, 10)).shape == (2, 1, 4, 4)
    assert float(as_square(torch.full((1, 4), 99.0)).max()) == 1
