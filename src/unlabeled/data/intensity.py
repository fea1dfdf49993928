"""How intensities enter the networks: one rule a run, written into the weights it produces."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class IntensityRule:
    """Clip to a window and scale it to [0, 1], or standardise.

    Parameters
    ----------
    kind
        ``window``: the window becomes [0, 1]; ``zscore``: mean 0 and deviation 1 over the foreground after clipping.
    ct
        Window of CT scans [HU]: absolute, the same for every scan.
    percentiles
        Window of every other modality: percentiles of the scan's own foreground, as their units mean nothing.
    """

    kind: Literal["window", "zscore"] = "window"
    ct: tuple[float, float] = (-1000.0, 1000.0)
    percentiles: tuple[float, float] = (0.5, 99.5)

    def as_metadata(self) -> dict[str, Any]:
        """Give the rule as plain values, for JSON."""
        return asdict(self)
