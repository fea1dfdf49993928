"""Tokens of several views of one study, let through by gates and set side by side (REFERS)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from unlabeled.nn.encoders import Encoder
from unlabeled.nn.heads import pool
from unlabeled.nn.vit import VisionTransformer


class Looked(NamedTuple):
    """What an encoder gives of images: ``batch width`` for the whole, ``batch token width`` for places, and their grid."""

    whole: Tensor
    tokens: Tensor
    grid: tuple[int, ...]


def look(encoder: Encoder, image: Tensor) -> Looked:
    """Give the class token and the patch tokens of a transformer; of any other encoder the mean and the cells of its coarsest map."""
    if isinstance(encoder, VisionTransformer):
        maps, whole = encoder.with_class(image)
    else:
        maps = encoder(image)
        whole = pool(maps)
    return Looked(whole, maps[-1].flatten(2).transpose(1, 2), tuple(maps[-1].shape[2:]))


class ViewFusion(nn.Module):
    """One gate for every token of every view, which sees the tokens of all views at the same place.

    For tokens x_1 .. x_n of n views at one place, each of length d::

        g_k = sigmoid(w_k . [x_1, ..., x_n] + b_k)        fused: all g_1 x_1, then all g_2 x_2, ...

    Parameters
    ----------
    views
        n.
    width
        d.

    Notes
    -----
    Source: official code of REFERS (Zhou et al., Nature Machine Intelligence 2022), for three views.
    """

    def __init__(self, views: int, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(views * width, views)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse ``batch view token width``: ``batch view*token width``, and the gates ``batch view token`` in (0, 1)."""
        beside = tokens.transpose(1, 2).flatten(2)
        gates = torch.sigmoid(self.gate(beside)).transpose(1, 2)
        return (gates[..., None] * tokens).flatten(1, 2), gates
