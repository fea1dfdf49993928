"""Heads over several pieces: shared where they must be, aware of the slot where they must be."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unlabeled.errors import OptionError
from unlabeled.nn.encoders import build_encoder
from unlabeled.nn.puzzles import LayoutHead, PieceHeads, pool_pieces

HEADS = {"order": (5, 2), "turned": (3, 1), "plain": (2, 0)}


def heads(pieces: int = 3) -> PieceHeads:
    torch.manual_seed(0)
    return PieceHeads(6, pieces, HEADS, features=4, width=7)


def test_each_head_has_its_numbers_and_hidden_layers():
    made = heads()
    told = made(torch.rand(2, 3, 6))
    assert {name: tuple(each.shape) for name, each in told.items()} == {
        "order": (2, 5),
        "turned": (2, 3),
        "plain": (2, 2),
    }
    layers = {
        name: [layer.weight.shape[::-1] for layer in head if isinstance(layer, nn.Linear)]
        for name, head in made.heads.items()
    }
    assert layers == {"order": [(12, 7), (7, 7), (7, 5)], "turned": [(12, 7), (7, 3)], "plain": [(12, 2)]}  # fmt: skip


def test_pieces_share_their_projection_and_heads_know_the_slot():
    made = heads().eval()
    pooled = torch.rand(2, 3, 6)
    turned = [2, 0, 1]
    with torch.no_grad():
        torch.testing.assert_close(made.project(pooled)[:, turned], made.project(pooled[:, turned]))
        assert not torch.allclose(made(pooled)["order"], made(pooled[:, turned])["order"])


def test_a_gradient_reaches_every_parameter():
    made = heads()
    sum(each.square().mean() for each in made(torch.rand(2, 3, 6)).values()).backward()
    assert [name for name, value in made.named_parameters() if value.grad is None] == []


def test_a_network_takes_as_many_pieces_as_it_was_built_for():
    with pytest.raises(RuntimeError):
        heads()(torch.rand(2, 4, 6))


def test_pooled_features_of_a_piece_do_not_depend_on_its_companions():
    torch.manual_seed(0)
    encoder = build_encoder("resenc-tiny", dims=3, in_channels=1).eval()
    pieces = torch.rand(2, 3, 1, 16, 8, 8)
    with torch.no_grad():
        pooled = pool_pieces(encoder, pieces)
        assert pooled.shape == (2, 3, encoder.channels[-1])
        torch.testing.assert_close(pool_pieces(encoder, pieces[1:, 2:])[0, 0], pooled[1, 2])


def test_a_layout_head_sees_where_something_is():
    encoder = build_encoder("resenc-tiny", dims=2)
    head = LayoutHead(encoder, (48, 48), (3, 3), 5, hidden=4)
    maps = [torch.zeros(2, encoder.channels[-1], 6, 6)]
    maps[0][0, :, :2, :2] = 1.0
    maps[0][1, :, 4:, 4:] = 1.0
    told = head(maps)
    assert told.shape == (2, 5)
    assert not torch.allclose(told[0], told[1]), "the mean over all places is the same"
    with pytest.raises(OptionError, match="3 x 3 tiles") as fault:
        LayoutHead(encoder, (9, 48), (3, 3), 5)
    assert "--patch-size" in fault.value.remedy
