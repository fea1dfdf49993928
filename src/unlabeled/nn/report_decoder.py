"""Write a report word by word from what was seen: transformer layers, post-norm, with tied words (REFERS)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from unlabeled.errors import OptionError

PUBLISHED_WIDTH = 1024


class ReportDecoder(nn.Module):
    """Say after every piece of a report which piece comes next, from the pieces so far and the tokens of the images.

    The pieces' vectors and those of their places are added, normalised, and go through transformer layers (attention to
    the pieces so far, to the images, and two linear layers with GELU, each added and normalised); the output layer's
    weights are the pieces' vectors.

    Parameters
    ----------
    seen
        Length of an image's token.
    words
        Pieces that there are.
    padding
        The piece that stands for nothing.
    positions
        Most pieces of a report.
    width, layers, heads
        Sizes; inside a layer four times as wide.
    hidden
        Width inside a layer; without it, four widths.
    p_dropout
        Probability to drop a number in training.
    backwards
        Whether other layers write the report from its end as well, with the same words and the same view of images.

    Notes
    -----
    Source: official code of REFERS (Zhou et al., Nature Machine Intelligence 2022), which has it from VirTex (Desai and
    Johnson, CVPR 2021).  Weights are drawn from normal numbers of deviation 0.02 at the published width, and larger ones for
    narrower layers (ours).
    """

    def __init__(
        self,
        seen: int,
        words: int,
        *,
        padding: int,
        positions: int,
        width: int = 1024,
        layers: int = 1,
        heads: int = 16,
        hidden: int | None = None,
        p_dropout: float = 0.1,
        backwards: bool = False,
    ) -> None:
        super().__init__()
        if width % heads:
            raise OptionError(
                f"{width} numbers of the decoder cannot be shared by {heads} attention heads",
                f"Give a --decoder-width that is a multiple of {heads}.",
            )
        self.padding = padding
        self.project = nn.Linear(seen, width)
        self.words = nn.Embedding(words, width, padding_idx=padding)
        self.positions = nn.Embedding(positions, width)
        self.norm = nn.LayerNorm(width, eps=1e-8)
        self.dropout = nn.Dropout(p_dropout)

        def stack() -> nn.ModuleList:
            return nn.ModuleList(
                nn.TransformerDecoderLayer(
                    width,
                    heads,
                    hidden or 4 * width,
                    p_dropout,
                    activation="gelu",
                    batch_first=True,
                )
                for _ in range(layers)
            )

        self.layers = stack()
        self.layers_backwards = stack() if backwards else None
        self.output = nn.Linear(width, words)
        self.apply(_initialise)
        with torch.no_grad():
            self.words.weight[padding] = 0
        self.output.weight = self.words.weight

    def forward(self, tokens: Tensor, ids: Tensor, *, backwards: bool = False) -> Tensor:
        """Compute logits ``batch piece word`` of the piece behind each one.

        Parameters
        ----------
        tokens
            Of the images, ``batch token seen``.
        ids
            ``batch piece``, start first; padding is attended to by nobody.
        backwards
            Read by the other layers; `ids` are then as `from_the_end` gives them.
        """
        return self._said(self._states(self.project(tokens), ids, backwards=backwards))

    def write(self, tokens: Tensor, *, start: int, stop: int, length: int) -> Tensor:
        """Write reports, always the likeliest piece: ``batch piece`` without the start, padding behind the stop."""
        memory = self.project(tokens)
        ids = torch.full((len(tokens), 1), start, device=tokens.device)
        over = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        for _ in range(min(length, self.positions.num_embeddings - 1)):
            said = self._said(self._states(memory, ids)[:, -1])
            said[:, [start, self.padding]] = -torch.inf
            piece = said.argmax(1).masked_fill(over, self.padding)
            ids = torch.cat([ids, piece[:, None]], 1)
            over = over | (piece == stop)
            if over.all():
                break
        return ids[:, 1:]

    def _states(self, memory: Tensor, ids: Tensor, *, backwards: bool = False) -> Tensor:
        padded = ids == self.padding
        count = ids.shape[1]
        placed = self.words(ids) + self.positions.weight[:count]
        state: Tensor = self.dropout(self.norm(placed)) * ~padded[..., None]
        later = torch.ones(count, count, dtype=torch.bool, device=ids.device).triu(1)
        for layer in self._stack(backwards):
            state = layer(
                state,
                memory,
                tgt_mask=later,
                tgt_key_padding_mask=padded,
            )
        return state

    def _stack(self, backwards: bool) -> nn.ModuleList:
        if not backwards:
            return self.layers
        if self.layers_backwards is None:
            raise ValueError("this decoder has no layers that write backwards")
        return self.layers_backwards

    def _said(self, state: Tensor) -> Tensor:
        logits: Tensor = self.output(state)
        return logits.float()


def from_the_end(ids: Tensor, padding: int) -> Tensor:
    """Turn reports round, padding staying behind: ``batch piece``.

    >>> from_the_end(torch.tensor([[1, 5, 2, 0], [1, 6, 7, 2]]), 0)
    tensor([[2, 5, 1, 0],
            [2, 7, 6, 1]])
    """
    lengths = (ids != padding).sum(1, keepdim=True)
    places = torch.arange(ids.shape[1], device=ids.device)
    return ids.gather(1, torch.where(places < lengths, lengths - 1 - places, places))


def _initialise(module: nn.Module) -> None:
    """Draw weights as VirTex does at the published width, larger ones in narrower layers; biases stay as torch draws them."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=_deviation(module.in_features))
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=_deviation(module.embedding_dim))
    elif isinstance(module, nn.MultiheadAttention):
        nn.init.normal_(module.in_proj_weight, std=_deviation(module.embed_dim))


def _deviation(width: int) -> float:
    """Give the deviation 0.02 of 1024 numbers, and one that adds up to as much for fewer: else images are not seen at first."""
    return 0.02 * math.sqrt(PUBLISHED_WIDTH / width)
