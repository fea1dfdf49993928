"""Overlays show image, prediction and truth where they are; panels share one brightness scale."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from unlabeled.benchmark.pictures import LABEL_COLOURS, overlay, panel, upright


def pixels(png: bytes):
    assert png.startswith(b"\x89PNG")
    return np.asarray(Image.open(io.BytesIO(png)))


def test_an_overlay_tints_labels_and_leaves_the_rest_grey():
    image = np.tile(np.linspace(0, 1, 16), (16, 1))
    mask = np.zeros((16, 16), int)
    mask[2:6, 2:6], mask[8:12, 8:12] = 1, 2
    shown = pixels(overlay(image, mask, edge=64, opacity=1.0))
    assert shown.shape == (64, 64, 3)
    assert tuple(shown[16, 16]) == LABEL_COLOURS[0]
    assert tuple(shown[40, 40]) == LABEL_COLOURS[1]
    rest = shown[60]
    assert (rest[:, 0] == rest[:, 1]).all()
    assert (rest[:, 1] == rest[:, 2]).all()
    assert rest[-1, 0] == 255
    assert rest[0, 0] == 0


def test_truth_is_a_white_outline_one_pixel_inside():
    truth = np.zeros((16, 16), int)
    truth[4:12, 4:12] = 1
    shown = pixels(overlay(np.zeros((16, 16)), np.zeros((16, 16), int), truth, edge=64))
    white = (shown == 255).all(axis=-1)
    assert white[16, 16:48].all()
    assert white[16:48, 47].all()
    assert not white[17:47, 17:47].any()
    assert not white[:16].any()


def test_constant_and_broken_values_are_drawn_without_a_warning():
    image = np.full((8, 8), 3.0)
    image[0, 0] = np.nan
    assert pixels(overlay(image, np.zeros((8, 8), int))).shape == (256, 256, 3)


def test_a_panel_has_one_scale_and_a_caption_each():
    dark, bright = np.zeros((8, 8)), np.ones((8, 8))
    shown = pixels(panel({"input <&>": dark, "output": bright}, edge=64))
    assert shown.shape == (64 + 20, 64 + 8 + 64)
    assert shown[50, 30] == 0
    assert shown[50, 100] == 255
    assert shown[:20, :64].min() < 200  # the caption
    assert len(panel({"a": dark})) < 5000


def test_upright_puts_the_front_up_and_the_right_side_left():
    volume_slice = np.zeros((4, 6))
    volume_slice[3, 5] = 1  # right, front
    assert upright(volume_slice)[0, 0] == 1
    assert upright(volume_slice).shape == (6, 4)


@pytest.mark.parametrize("labels", [1, 9])
def test_any_number_of_labels_has_a_colour(labels):
    mask = np.arange(labels + 1).reshape(1, -1)
    assert pixels(overlay(np.zeros(mask.shape), mask, edge=20)).shape[-1] == 3
