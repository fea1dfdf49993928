"""How much of a slice is body: denser than air, brighter than the dark; whatever the channels."""

from __future__ import annotations

import numpy as np
import pytest

from unlabeled.data.scan import Grid, Scan
from unlabeled.transforms.bodies import BODY_PIXELS, BodyCount


def scan(array: np.ndarray, modality: str = "MR", **how) -> Scan:
    space = array.shape[1:]
    grid = Grid(space, np.eye(4))
    return Scan(array=array, spacing=(1.0,) * len(space), affine=None, modality=modality, grid=grid, **how)  # fmt: skip


def counted(given: Scan) -> list[int]:
    made = BodyCount()(given).extras[BODY_PIXELS]
    assert made.ndim == given.dims
    return made.reshape(-1).tolist()


def test_ct_counts_what_is_denser_than_air():
    array = np.full((1, 6, 5, 4), 24, np.int16)  # -1000 HU
    array[0, :2, :3, 1] = 200  # lung
    array[0, 0, 0, 3] = 1064
    assert counted(scan(array, "CT", intercept=-1024.0)) == [0, 6, 0, 1]


def test_elsewhere_a_tenth_of_what_is_bright_counts():
    array = np.zeros((1, 10, 10, 3), np.float32)
    array[0, ..., 1] = 50
    array[0, ..., 2] = 4
    assert counted(scan(array)) == [0, 100, 0]
    assert counted(scan(array + 1000)) == [0, 100, 0]


def test_any_channel_counts_and_a_picture_is_one_slice():
    array = np.zeros((2, 4, 4), np.uint8)
    array[0, 0, 0] = array[1, 1, 1] = 200
    assert counted(scan(array)) == [2]


@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_scan_has_no_body(value):
    assert counted(scan(np.full((1, 4, 4, 2), value, np.uint8))) == [0, 0]
