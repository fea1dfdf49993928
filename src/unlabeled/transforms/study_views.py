"""Several views of a study, and its report with the sides that they show (REFERS)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from unlabeled.data.reports import exchange_sides
from unlabeled.data.studies import Study
from unlabeled.transforms._draws import chance
from unlabeled.transforms.jitter import Jitter
from unlabeled.transforms.shrinking import shown_patch, shown_space
from unlabeled.transforms.zooming import ZoomCrop


@dataclass(frozen=True, kw_only=True)
class StudyViews:
    """Draw radiographs of a study with replacement; cut a box of each, scale, mirror, change brightness and contrast.

    Parameters
    ----------
    size
        Rows and columns of a view [pixel].
    count
        Views.
    least_area
        Smallest area of a box over that of the radiograph; the largest is 1.
    narrowest
        Smallest width of a box over its height; the largest is 1.
    p_flip
        Probability of mirroring left and right.
    p_jitter
        Probability of changing brightness and contrast.
    brightness, contrast
        Largest change of each factor.
    together
        Mirror all views of a study or none, and exchange whole words of its report; else each view by itself, and the
        report follows the first, letters inside words included (official code).
    """

    size: tuple[int, int]
    count: int = 3
    least_area: float = 0.05
    narrowest: float = 0.6
    p_flip: float = 0.5
    p_jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    together: bool = True

    def __call__(self, study: Study, rng: Generator) -> tuple[Tensor, str]:
        """Draw ``view channel *size``, and the report of what they show."""
        crop = ZoomCrop(self.size, least=self.least_area, stretch=1 / self.narrowest, widest=1.0)
        jitter = Jitter(self.brightness, self.contrast)
        mirrored = chance(self.p_flip, rng)
        views = []
        for number in range(self.count):
            record = study.records[int(torch.randint(len(study.records), (), generator=rng))]
            view = crop.resize(shown_patch(record, *crop.draw(shown_space(record), rng)))
            own = mirrored if self.together or not number else chance(self.p_flip, rng)
            view = view.flip(-1) if own else view
            views.append(jitter(view, rng) if chance(self.p_jitter, rng) else view)
        report = study.report
        if mirrored:
            report = exchange_sides(report, plain=not self.together)
        return torch.stack(views), report

    def whole(self, study: Study) -> tuple[Tensor, str]:
        """Scale whole radiographs, each in turn, unchanged: ``view channel *size``; with the report as it is."""
        scale = ZoomCrop(self.size).resize
        chosen = [study.records[place % len(study.records)] for place in range(self.count)]
        views = [scale(shown_patch(each, (0, 0), shown_space(each))) for each in chosen]
        return torch.stack(views), study.report
