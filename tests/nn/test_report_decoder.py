"""The decoder writes what it says is likeliest, stops, and is trained from either end."""

from __future__ import annotations

import pytest
import torch

from unlabeled.errors import OptionError
from unlabeled.nn.report_decoder import ReportDecoder, from_the_end


def decoder(**options) -> ReportDecoder:
    torch.manual_seed(0)
    values = {"padding": 0, "positions": 9, "width": 16, "heads": 2, **options}
    made = ReportDecoder(8, 12, **values)
    with torch.no_grad():
        for each in made.parameters():
            each.mul_(8)  # far from even
    return made.eval()


def test_writing_is_greedy():
    """Every piece written is the likeliest one behind those before it, marks left out."""
    made, tokens = decoder(), torch.randn(3, 5, 8)
    with torch.no_grad():
        said = made.write(tokens, start=1, stop=2, length=8)
        ids = torch.cat([torch.ones(3, 1, dtype=torch.long), said], 1)
        logits = made(tokens, ids)[:, :-1]
        logits[..., [0, 1]] = -torch.inf
    for row in range(3):
        stop = (said[row] == 2).nonzero()
        end = int(stop[0]) + 1 if len(stop) else said.shape[1]
        assert torch.equal(said[row, :end], logits[row, :end].argmax(1))
        assert (said[row, end:] == 0).all()


def test_nothing_is_written_behind_the_stop():
    made = decoder()
    with torch.no_grad():
        made.output.bias[2] = 1e4
        said = made.write(torch.randn(2, 5, 8), start=1, stop=2, length=8)
    assert said.tolist() == [[2], [2]]


def test_no_report_is_longer_than_the_places_for_it():
    made = decoder()
    with torch.no_grad():
        made.output.bias[2] = -1e4
        assert made.write(torch.randn(1, 5, 8), start=1, stop=2, length=50).shape == (1, 8)


def test_the_other_direction_has_layers_of_its_own():
    made, tokens = decoder(backwards=True), torch.randn(1, 5, 8)
    ids = torch.tensor([[1, 5, 6, 2, 0]])
    with torch.no_grad():
        forth, back = made(tokens, ids), made(tokens, ids, backwards=True)
    assert forth.shape == back.shape == (1, 5, 12)
    assert not torch.allclose(forth, back)
    turned = from_the_end(ids, 0)
    assert turned.tolist() == [[2, 6, 5, 1, 0]]
    assert torch.equal(from_the_end(turned, 0), ids)
    with pytest.raises(ValueError, match="no layers that write backwards"):
        decoder()(tokens, ids, backwards=True)


def test_heads_that_do_not_share_the_width_are_refused():
    with pytest.raises(OptionError, match="16 numbers of the decoder"):
        decoder(heads=5)
