"""What masks hold: which values there are, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unlabeled.data.record import Record
from unlabeled.errors import DataError

#: More values than this are single objects, or a picture mask blurred by JPEG, not classes.
MOST_VALUES = 128


@dataclass(frozen=True)
class Labels:
    """The classes of a segmentation.

    Parameters
    ----------
    values
        Value in the masks of each class, ascending; class 0 is the background, value 0.
    names
        What each class is called.
    merged
        Whether every value other than 0 counts as the one foreground class.
    """

    values: tuple[int, ...]
    names: tuple[str, ...]
    merged: bool = False

    def encode(self, mask: Tensor) -> Tensor:
        """Turn mask values into classes; a value that is no class becomes background.

        >>> Labels((0, 5, 9), ("background", "a", "b")).encode(torch.tensor([0, 9, 5, 7]))
        tensor([0, 2, 1, 0])
        """
        if self.merged:
            return (mask != 0).long()
        if self.values == tuple(range(len(self.values))):
            return torch.where((mask < 0) | (mask > self.values[-1]), 0, mask)
        values = torch.tensor(self.values)
        place = torch.searchsorted(values, mask.contiguous()).clamp(max=len(values) - 1)
        return torch.where(values[place] == mask, place, 0)

    def decode(self, classes: NDArray[Any]) -> NDArray[Any]:
        """Turn classes back into mask values, in the smallest unsigned type that holds them."""
        values: NDArray[Any] = np.asarray(self.values, dtype=np.min_scalar_type(self.values[-1]))
        return np.take(values, classes)

    def as_metadata(self) -> dict[str, Any]:
        """Give plain values, for JSON."""
        return {"values": list(self.values), "names": list(self.names), "merged": self.merged}

    @classmethod
    def from_metadata(cls, plain: Mapping[str, Any]) -> Labels:
        """Read what `as_metadata` gave."""
        return cls(tuple(plain["values"]), tuple(plain["names"]), bool(plain["merged"]))


def find_labels(
    records: Sequence[Record],
    names: Mapping[int, str] | None = None,
    *,
    mode: Literal["each", "any"] = "each",
) -> Labels:
    """List the values of all masks, from the labelled voxels that the store keeps of each.

    Parameters
    ----------
    records
        Prepared scans with masks.
    names
        What the data set calls the values.
    mode
        ``each``: every value is a class; ``any``: all values other than 0 are one class.

    Raises
    ------
    DataError
        There is no foreground at all, or more values than classes can be.
    """
    values: set[int] = set()
    for record in records:
        values |= set(record.labelled_voxels)
        if len(values) > MOST_VALUES and mode == "each":
            raise DataError(
                f"the masks hold more than {MOST_VALUES} values (up to {record.source.name})",
                "If they number single objects, give --labels any: all of them become one class; or tell the objects apart "
                "with `unlabeled finetune instances`.",
            )
    if not values:
        raise DataError(
            f"the masks of {len(records)} scans hold no label at all, only 0",
            "Check that the mask column, or the folder labels/, names the right files.",
        )
    if mode == "any":
        return Labels((0, 1), ("background", "foreground"), merged=True)
    names = dict(names or {})
    ordered = tuple(sorted({0, *values, *(value for value in names if value > 0)}))
    called = (names.get(v, "background" if v == 0 else f"label {v}") for v in ordered)
    return Labels(ordered, tuple(called))
