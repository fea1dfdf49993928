"""Puzzles that are put together by a soft permutation: the error of what comes out, and who lies right."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

EMPTY = 0.05  # deviation within a piece, of intensities of deviation 1, up to which it shows nothing (ours)


def put_back(
    soft: Float[Tensor, "batch slot place"], slots: Float[Tensor, "batch slot *piece"]
) -> Float[Tensor, "batch place *piece"]:
    """Mix what lies in the slots into the places: ``S^T P``.

    Entry (i, j) of `soft` says how much of slot i belongs to place j.  The other way round, ``S P``, would be the inverse
    permutation, which differs as soon as three pieces go round.

    >>> goes_to = torch.tensor([[[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]])
    >>> put_back(goes_to, torch.tensor([[10.0, 11.0, 12.0]]))
    tensor([[12., 10., 11.]])
    """
    placed = torch.einsum("bij,bid->bjd", soft.float(), slots.reshape(*slots.shape[:2], -1).float())
    return placed.view(slots.shape)


def assembly_error(
    soft: Float[Tensor, "batch slot place"],
    slots: Float[Tensor, "batch slot *piece"],
    intact: Float[Tensor, "batch place *piece"],
) -> Float[Tensor, ""]:
    """Mean squared difference of what is put back and the puzzle in its right order, in single precision.

    Parameters
    ----------
    soft
        The permutation that is believed in.
    slots, intact
        The pieces as they were given, and as they belong, in the very same intensities; neither gets a gradient.

    Notes
    -----
    Source: Taleb et al., IPMI 2021; the division by the number of pixels is ours.

    >>> swapped = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    >>> assembly_error(torch.full((1, 2, 2), 0.5), swapped, swapped.flip(1))
    tensor(0.2500)
    """
    return (put_back(soft, slots.detach()) - intact.detach().float()).square().mean()


def spread_of_pieces(intact: Float[Tensor, "batch place *piece"]) -> Float[Tensor, ""]:
    """Mean squared difference of the pieces of a puzzle from their mean: the error of not knowing any place."""
    pieces = intact.detach().float()
    return (pieces - pieces.mean(1, keepdim=True)).square().mean()


def shows_something(
    pieces: Float[Tensor, "batch piece *pixels"],
) -> Bool[Tensor, "batch piece"]:
    """Tell which pieces are more than background: those alone have a place that can be known."""
    return pieces.detach().float().flatten(2).std(2, correction=0) > EMPTY


def assembly_scores(
    found: Int[Tensor, "batch slot"],
    true: Int[Tensor, "batch slot"],
    counts: Bool[Tensor, "batch slot"],
) -> dict[str, Tensor]:
    """Count pieces, and whole puzzles, that are put where they belong; pieces that show nothing do not count.

    ``chance`` is that of putting a piece anywhere.

    >>> true = torch.tensor([[2, 0, 1]])
    >>> scores = assembly_scores(torch.tensor([[2, 1, 0]]), true, torch.tensor([[True, True, False]]))
    >>> scores["accuracy"], scores["whole"]
    (tensor(0.5000), tensor(0.))
    """
    right = found == true
    counted = counts.sum().clamp(min=1)
    return {
        "accuracy": (right & counts).sum() / counted,
        "chance": torch.tensor(1 / true.shape[1]),
        "whole": (right | ~counts).all(1).float().mean(),
    }
