"""One vector for a whole report: BERT with its pooler, and a linear layer (REFERS)."""

from __future__ import annotations

import math

from torch import Tensor, nn

from unlabeled.nn.text import TextEncoder, bert_weights, text_encoder
from unlabeled.nn.tokens import Tokeniser
from unlabeled.nn.weights import read_weights

_POOLER = "pooler.dense."
_WIDTH = 768  # of the BERT whose layers start at weights of deviation 0.02


class ReportEncoder(nn.Module):
    """A text encoder, BERT's pooler (linear and tanh, on the state of the start mark), and a linear layer.

    Parameters
    ----------
    text
        Reads pieces.
    features
        Length of the vector.
    """

    def __init__(self, text: TextEncoder, features: int) -> None:
        super().__init__()
        width = text.shape.width
        self.text = text
        self.pooler = nn.Linear(width, width)
        _draw(self.pooler)
        nn.init.zeros_(self.pooler.bias)
        self.project = nn.Linear(width, features)
        nn.init.zeros_(self.project.bias)  # lest all reports are alike at first (ours)

    @property
    def tokeniser(self) -> Tokeniser:
        """Makes the pieces."""
        return self.text.tokeniser

    def forward(self, ids: Tensor) -> Tensor:
        """Compute ``batch features`` from ``batch piece``; padding changes nothing."""
        longest = int((ids != self.tokeniser.padding).sum(1).max())
        start = self.text(ids[:, :longest])[-1][:, 0]
        out: Tensor = self.project(self.pooler(start).tanh())
        return out


def report_encoder(
    folder: str, features: int, *, width: int, layers: int, heads: int, positions: int
) -> ReportEncoder:
    """Read the encoder of a BERT folder with its pooler, where the file holds one, or make a small one from scratch.

    Raises
    ------
    OptionError
        As `text_encoder` raises it.
    RunError
        The folder holds no model that can be read.
    """
    text = text_encoder(folder, width=width, layers=layers, heads=heads, positions=positions)
    made = ReportEncoder(text, features)
    if not folder:
        text.layers.apply(_draw)
    else:
        tensors, _ = read_weights(bert_weights(folder))
        held = {
            name.partition(_POOLER)[2]: tensor
            for name, tensor in tensors.items()
            if _POOLER in name
        }
        if set(held) == {"weight", "bias"}:
            made.pooler.load_state_dict(held)
    return made


def _draw(module: nn.Module) -> None:
    """Draw the weights of a layer as BERT does, and larger where it is narrower: else the start mark sees no word at first (ours)."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02 * math.sqrt(_WIDTH / module.in_features))
