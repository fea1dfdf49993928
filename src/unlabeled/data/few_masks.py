"""Few masks among many scans: whose are read, and which scans stay unlabelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unlabeled.data.record import Record
from unlabeled.data.splits import take_fraction
from unlabeled.errors import DataError


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

    def require(
        self, slug: str, records: Sequence[Record], *, instead: str, others: bool
    ) -> list[Record]:
        """List the scans with masks, for a method that learns from them.

        Parameters
        ----------
        slug
            The method.
        records
            All scans.
        instead
            What to type where there are no masks.
        others
            Whether scans must be left that count as unlabelled.

        Raises
        ------
        DataError
            No scan has a mask, or none would be left.
        """
        masked = [record for record in records if record.mask is not None]
        if not masked:
            raise DataError(
                f"none of {len(records)} scans has a mask, and {slug} learns to segment from few masks",
                "Name them in a manifest's column `mask` (beside a folder of images, pretraining reads no masks), or give "
                f"{instead}.",
            )
        if others and len(masked) == len(records) and self.fraction == 1:
            raise DataError(
                f"all {len(records)} scans have masks that would be learnt from, and none is left to be unlabelled",
                "Give --label-fraction 0.1, so that the masks of a tenth of the subjects are read, or add scans without.",
            )
        return masked

    def note(self) -> str:
        """Say whose masks are read.

        >>> FewMasks(0.25).note()
        '0.25 of masks are learnt from: what is fine-tuned from here with fewer of them is no fair figure'
        """
        whose = "all masks are" if self.fraction == 1 else f"{self.fraction:.3g} of masks are"
        return f"{whose} learnt from: what is fine-tuned from here with fewer of them is no fair figure"
