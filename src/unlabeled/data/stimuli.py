"""Pictures, responses to them, and pairs of both: which stream a record belongs to, and what is drawn from it.

Records whose manifest says ``test`` are there for their responses alone, and only where a method was asked to learn
from them; their pictures are never given out here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from unlabeled.data.fmri import RESPONSES
from unlabeled.data.record import Record
from unlabeled.errors import DataError

PICTURE = (
    "picture"  # name among `Scan.extras` and `Record.extras`: ``3 rows columns``, levels 0 to 255
)

Accepts = Callable[[Record], bool]  # whether a record belongs to a stream
Group = Callable[
    [Sequence[Record]], Sequence[tuple[Record, ...]]
]  # what single samples are drawn from


class Pair(NamedTuple):
    """A picture and its shifted copy, ``*batch 3 rows columns`` in [0, 1], and a response to it, ``*batch voxels``."""

    shifted: Tensor
    picture: Tensor
    response: Tensor


class Picture(NamedTuple):
    """A picture whose response nobody measured, ``*batch 3 rows columns`` in [0, 1]."""

    picture: Tensor


class Response(NamedTuple):
    """A response whose picture nobody shows, ``*batch voxels``."""

    response: Tensor


def picture_of(record: Record) -> Tensor:
    """Give the prepared picture of a record, ``3 rows columns`` in [0, 1]."""
    return torch.from_numpy(record.extras[PICTURE].whole()).float() / 255


def responses_of(record: Record) -> Tensor:
    """Give the responses of a record, ``repeats voxels``."""
    return torch.from_numpy(record.extras[RESPONSES].whole()[0]).float()


def has_response(record: Record) -> bool:
    """Whether a record has a response."""
    return bool(record.source.responses)


def has_picture(record: Record) -> bool:
    """Whether a record has a picture that may be learnt from."""
    return not record.source.is_response and record.source.split != "test"


def is_pair(record: Record) -> bool:
    """Whether a record has a picture and a response that may be learnt from together."""
    return has_picture(record) and has_response(record)


def is_loose_picture(record: Record) -> bool:
    """Whether nobody measured the response to a picture."""
    return has_picture(record) and not has_response(record)


def is_loose_response(record: Record) -> bool:
    """Whether the picture of a response is not known, or may not be used."""
    return has_response(record) and not has_picture(record)


@dataclass(frozen=True)
class Stream:
    """What a stream is made of: its records, what they are in words, and how a person adds some."""

    holds: Callable[[Record], bool]
    what: str
    remedy: str


STREAMS: Mapping[str, Stream] = {
    "pairs": Stream(
        is_pair,
        "a picture with a response",
        "Fill in `image` and `response` of the same rows.",
    ),
    "pictures": Stream(
        is_loose_picture,
        "a picture without a response",
        "Add rows with an `image` alone, or do without: --streams responses, or none.",
    ),
    "responses": Stream(
        is_loose_response,
        "a response without a picture",
        "Add rows with a `response` alone, or do without: --streams pictures, or none. --test-responses learns from "
        "the responses of test rows, as the paper does.",
    ),
}


def require_streams(
    records: Sequence[Record], streams: Sequence[str], splits: Sequence[str]
) -> None:
    """Refuse data that lacks a stream.

    Parameters
    ----------
    records
        All of them.
    streams
        Keys of `STREAMS`.
    splits
        Those that are learnt from; records that name none are for training.

    Raises
    ------
    DataError
        No record of these splits belongs to a stream; what is missing, and what can be done.
    """
    seen = [record for record in records if (record.source.split or "train") in splits]
    for name in streams:
        stream = STREAMS[name]
        if not any(stream.holds(record) for record in seen):
            raise DataError(
                f"none of {len(records)} scans is {stream.what} for training", stream.remedy
            )


def all_loose(loose: Accepts) -> Group:
    """Make the grouping of a stream whose samples are each drawn from all loose records.

    Held-out records may lack loose ones; pairs are then taken apart.
    """

    def group(records: Sequence[Record]) -> Sequence[tuple[Record, ...]]:
        chosen = tuple(record for record in records if loose(record)) or tuple(records)
        return [chosen] if chosen else []

    return group


def loose_stream(name: str) -> tuple[Accepts, Group]:
    """Say which records samples of a loose stream may be drawn from, and how: from all loose ones.

    Parameters
    ----------
    name
        ``pictures`` or ``responses``.
    """
    accepts = {"pictures": has_picture, "responses": has_response}[name]
    return accepts, all_loose(STREAMS[name].holds)


def draw_record(records: Sequence[Record], rng: Generator) -> Record:
    """Draw one record, each as likely."""
    return records[int(torch.randint(len(records), (), generator=rng))]


def draw_response(record: Record, rng: Generator) -> Tensor:
    """Draw one of the responses of a record, each as likely, ``voxels``."""
    responses = responses_of(record)
    return responses[int(torch.randint(len(responses), (), generator=rng))]


def draw_average(record: Record, p_keep: float, rng: Generator) -> Tensor:
    """Average the responses of a record that `draw_repeats` draws, ``voxels``."""
    responses = responses_of(record)
    return responses[draw_repeats(len(responses), p_keep, rng)].mean(0)


def draw_repeats(repeats: int, p_keep: float, rng: Generator) -> Tensor:
    """Draw which repeats of a stimulus are averaged: each with probability `p_keep`, anew until one is kept.

    Parameters
    ----------
    repeats
        How often it was shown.
    p_keep
        In (0, 1].
    rng
        Source of randomness.

    Returns
    -------
    Tensor
        ``repeats``, true where one is kept.
    """
    while True:
        kept = torch.rand(repeats, generator=rng) < p_keep
        if kept.any():
            return kept
