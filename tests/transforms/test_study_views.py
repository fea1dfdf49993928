"""Views of a study: boxes no wider than high, brightness within reach, pictures drawn evenly."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

from unlabeled.data.studies import Study
from unlabeled.rng import generator
from unlabeled.transforms.study_views import StudyViews
from unlabeled.transforms.zooming import ZoomCrop


@dataclass
class Held:
    """A record in memory."""

    image: torch.Tensor
    extras: dict = field(default_factory=dict)

    @property
    def space(self) -> tuple[int, ...]:
        return tuple(self.image.shape[1:])

    def patch(self, start, size) -> torch.Tensor:
        (top, left), (rows, columns) = start, size
        return self.image[:, top : top + rows, left : left + columns].clone()


def test_boxes_are_as_narrow_as_told_and_never_wide():
    crop = ZoomCrop((8, 8), least=0.05, stretch=1 / 0.6, widest=1.0)
    ratios, shares = [], []
    for number in range(400):
        (top, left), (rows, columns) = crop.draw((400, 500), generator(0, number))
        assert 0 <= top <= 400 - rows
        assert 0 <= left <= 500 - columns
        ratios.append(columns / rows)
        shares.append(rows * columns / 200_000)
    assert 0.59 < min(ratios) < 0.65
    assert 0.95 < max(ratios) < 1.02
    assert 0.045 < min(shares) < 0.1
    assert max(shares) > 0.7


def test_a_picture_in_which_no_box_fits_gives_its_middle():
    crop = ZoomCrop((8, 8), least=1.0, stretch=1 / 0.6, widest=1.0)
    assert crop.draw((10, 100), generator(0)) == ((0, 45), (10, 10))
    assert crop.draw((100, 10), generator(0)) == ((41, 0), (17, 10))


def test_pictures_of_a_study_are_drawn_evenly():
    records = tuple(Held(torch.full((1, 20, 20), level / 4)) for level in range(4))
    draw = StudyViews(size=(8, 8), count=4, p_jitter=0.0)
    seen = torch.cat(
        [draw(Study(records, ""), generator(0, n))[0].mean((1, 2, 3)) for n in range(300)]
    )
    shares = torch.bincount((4 * seen).round().long(), minlength=4) / len(seen)
    assert shares.tolist() == pytest.approx([0.25] * 4, abs=0.05)


def test_brightness_and_contrast_change_as_often_as_asked():
    told = Study((Held(torch.full((1, 20, 20), 0.5)),), "")
    draw = StudyViews(size=(8, 8), count=1)
    seen = torch.stack([draw(told, generator(0, n))[0].mean() for n in range(300)])
    still = (seen - 0.5).abs() < 1e-6
    assert 0.12 < float(still.float().mean()) < 0.28
    assert 0.3 - 1e-6 <= float(seen.min()) < float(seen.max()) <= 0.7 + 1e-6
