"""How intensities enter the networks: one rule a run, written into the weights it produces."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

QUANTILES = 1001  # of the foreground, in steps of 0.1 %, so that 0.5 and 99.5 % are kept exactly


@dataclass(frozen=True, kw_only=True)
class IntensityRule:
    """Clip to a window and scale it to [0, 1], or standardise.

    Parameters
    ----------
    kind
        ``window``: the window becomes [0, 1]; ``range``: the same, the window from a scan's smallest to its largest voxel,
        background included (CT keeps its own); ``zscore``: mean 0 and deviation 1 over the foreground after clipping;
        ``standard``: the same without clipping, for methods that give intensities back.
    ct
        Window of CT scans [HU]: absolute, the same for every scan.
    percentiles
        Window of every other modality: percentiles of the scan's own foreground, as their units mean nothing.
    """

    kind: Literal["window", "range", "zscore", "standard"] = "window"
    ct: tuple[float, float] = (-1000.0, 1000.0)
    percentiles: tuple[float, float] = (0.5, 99.5)

    def as_metadata(self) -> dict[str, Any]:
        """Give the rule as plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Statistics:
    """Intensities of the foreground of some channels of a scan.

    Parameters
    ----------
    channels
        How many channels share them: the three of a colour picture do, registered modalities do not.
    modality
        Of these channels; ``CT`` means HU.
    mean, std
        Over the foreground.
    quantiles
        Minimum, 0.1 %, 0.2 %, ..., maximum of the foreground.
    lowest
        Smallest of all voxels, background included; None in entries of the store from before it was kept, where the
        foreground's stands in.
    """

    channels: int
    modality: str
    mean: float
    std: float
    quantiles: NDArray[np.float32]
    lowest: float | None = None

    def percentile(self, percent: float) -> float:
        """Give a percentile of the foreground, interpolated linearly between multiples of 0.1 %.

        >>> Statistics(1, "MR", 0.5, 0.3, np.linspace(0, 1, QUANTILES, dtype=np.float32)).percentile(25)
        0.25
        """
        return float(np.interp(percent, np.linspace(0, 100, QUANTILES), self.quantiles))

    def clipped(self, low: float, high: float) -> tuple[float, float]:
        """Give mean and deviation after clipping to a window, integrated over the quantiles."""
        clipped = np.clip(self.quantiles.astype(np.float64), low, high)
        left, right = (
            clipped[:-1],
            clipped[1:],
        )  # between two quantiles the intensities are taken as even
        mean = float(np.mean((left + right) / 2))
        square = float(np.mean((left * left + left * right + right * right) / 3))
        return mean, max(square - mean * mean, 0.0) ** 0.5


@dataclass(frozen=True, slots=True)
class Rescaling:
    """How the intensities of some channels become network input: ``(clip(x, low, high) - centre) / width``.

    Parameters
    ----------
    low, high
        Window, in the scan's intensities (HU for CT); infinite where nothing is clipped.
    centre, width
        What becomes 0, and the length that becomes 1.
    """

    low: float
    high: float
    centre: float
    width: float

    @classmethod
    def under(cls, rule: IntensityRule, statistics: Statistics) -> Rescaling:
        """Apply a rule to a scan; a constant scan gets a width of one instead of zero."""
        if rule.kind == "standard":
            width = statistics.std if statistics.std > 0 else 1.0
            return cls(-math.inf, math.inf, statistics.mean, width)
        if statistics.modality == "CT":
            low, high = rule.ct
        elif rule.kind == "range":
            least, high = float(statistics.quantiles[0]), float(statistics.quantiles[-1])
            low = least if statistics.lowest is None else statistics.lowest
        else:
            low, high = (statistics.percentile(percent) for percent in rule.percentiles)
        if not high > low:
            high = low + 1.0
        if rule.kind in ("window", "range"):
            return cls(low, high, low, high - low)
        mean, std = statistics.clipped(low, high)
        return cls(low, high, mean, std if std > 0 else 1.0)

    def undo(self, image: Tensor) -> Tensor:
        """Give intensities for network input; what was clipped stays at the window's end.

        >>> import torch
        >>> Rescaling(0.0, 500.0, 100.0, 50.0).undo(torch.tensor([-1.0, 2.0]))
        tensor([ 50., 200.])
        """
        return image * self.width + self.centre

    @property
    def padding(self) -> float:
        """What lies beyond the scan, after rescaling: the window's low end; without a window, the mean."""
        if math.isinf(self.low):
            return 0.0
        return float(np.float32(self.low - self.centre) * np.float32(1.0 / self.width))
