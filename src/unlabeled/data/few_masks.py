"""Few masks among many scans: whose are read, which scans stay unlabelled, and what values become of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unlabeled.data.record import Record
from unlabeled.data.splits import take_fraction
from unlabeled.errors import DataError

MOST_CLASSES = 32  # more values in masks than this number single objects


@dataclass(frozen=True)
class FewMasks:
    """Divides scans into those whose masks are read and those that count as unlabelled, whole subjects at a time.

    Parameters
    ----------
    fraction
        Share of the subjects with masks whose masks are read, at least one; 0 reads none.
    seed
        Another seed, another draw; with the same one a larger share holds all that a smaller one holds.
    """

    fraction: float
    seed: int = 0

    def labelled(self, records: Sequence[Record]) -> tuple[Record, ...]:
        """List the scans whose masks are read."""
        masked = [record for record in records if record.mask is not None]
        if not masked or not self.fraction:
            return ()
        subjects = {record.source.subject for record in masked}
        drawn = set(take_fraction(subjects, float(self.fraction), self.seed))
        return tuple(record for record in masked if record.source.subject in drawn)

    def unlabelled(self, records: Sequence[Record]) -> tuple[Record, ...]:
        """List the other scans; where there is no other, all of them, for what needs no mask."""
        read = {id(record) for record in self.labelled(records)}
        return tuple(record for record in records if id(record) not in read) or tuple(records)


def mask_values(records: Sequence[Record], *, merged: bool = False) -> tuple[int, ...]:
    """List the values that are classes, ascending, from what the store keeps of each mask; the background's 0 is none.

    Parameters
    ----------
    records
        Scans with masks.
    merged
        Take all values other than 0 for one class, which is then called 1.

    Raises
    ------
    DataError
        There is no value, or more than classes can be.
    """
    values = sorted(set[int]().union(*(record.labelled_voxels for record in records)))
    if not values:
        raise DataError(
            f"the masks of {len(records)} scans hold no label at all, only 0",
            "Check that the manifest's column `mask` names the right files.",
        )
    if merged:
        return (1,)
    if len(values) > MOST_CLASSES:
        raise DataError(
            f"the masks hold {len(values)} values, more than {MOST_CLASSES}",
            "If they number single objects, give --labels any: all of them become one class.",
        )
    return tuple(values)


def as_classes(mask: Tensor, values: Sequence[int], *, merged: bool = False) -> Tensor:
    """Turn values of a mask into classes 1, 2, ...; what is none of them becomes background, 0.

    >>> as_classes(torch.tensor([0, 9, 5, 7]), (5, 9))
    tensor([0, 2, 1, 0])
    >>> as_classes(torch.tensor([0, 9, 5, 7]), (1,), merged=True)
    tensor([0, 1, 1, 1])
    """
    if merged:
        return (mask != 0).long()
    known = torch.tensor([0, *values])
    place = torch.searchsorted(known, mask.contiguous()).clamp(max=len(known) - 1)
    return torch.where(known[place] == mask, place, 0)
