"""Virtual stereo pairs: the left picture is the right one read at the true disparity."""

from __future__ import annotations

import csv

import numpy as np
from PIL import Image

from unlabeled.demo.stereo import FAR, NEAR, scene, write_stereo


def test_the_disparity_is_true_and_the_disc_is_near_and_bright():
    for seed in range(6):
        drawn = scene(seed, (40, 56))
        assert drawn.left.shape == drawn.right.shape == (40, 56, 3)
        columns = np.arange(56.0)
        seen = columns - drawn.disparity * 56
        rebuilt = np.stack(
            [
                np.stack([np.interp(at, columns, row[:, c]) for c in range(3)], -1)
                for at, row in zip(seen, drawn.right.astype(float), strict=True)
            ]
        )
        inner = (slice(None), slice(6, -1))
        assert np.abs(rebuilt - drawn.left)[inner].mean() < 1
        unmoved = drawn.right.astype(float) - drawn.left
        assert np.abs(unmoved)[inner].mean() > 4
        assert FAR <= drawn.disparity.min() < drawn.disparity.max() <= NEAR
        inside = drawn.disc > 0
        assert drawn.disparity[inside].min() > drawn.disparity[~inside].mean()
        assert drawn.left[inside].mean() > drawn.left[~inside].mean()
    again = scene(5, (40, 56))
    assert np.array_equal(again.left, drawn.left)
    assert not np.array_equal(scene(6, (40, 56)).left, drawn.left)


def test_the_bright_spot_lies_on_the_disc_in_left_pictures():
    """Over many scenes, what the disc covers is brightest where it is said to be, not some pixels beside it."""
    bright = np.zeros(13)
    for seed in range(60):
        drawn = scene(seed)
        grey = drawn.left.mean(-1)
        bright += [grey[np.roll(drawn.disc, by, 1) > 0].mean() for by in range(-6, 7)]
    assert abs(int(bright.argmax()) - 6) <= 1


def test_files_and_manifest(tmp_path):
    manifest = write_stereo(tmp_path / "s", objects=2, patients=2, each=2, shape=(24, 32))
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    pairs = [row for row in rows if ";" in row["image"]]
    frames = [row for row in rows if row["mask"]]
    assert (len(pairs), len(frames), len(rows)) == (6, 4, 10)
    assert [row["study"] for row in pairs] == ["objects"] * 2 + ["knee"] * 4
    assert len({row["subject"] for row in rows}) == 4
    for row in rows:
        for name in filter(None, (*row["image"].split(";"), row["mask"])):
            with Image.open(manifest.parent / name) as picture:
                assert picture.size == (32, 24)
    bare = write_stereo(tmp_path / "b", objects=1, patients=1, masks=False, shape=(24, 32))
    assert len(bare.read_text().splitlines()) == 3
