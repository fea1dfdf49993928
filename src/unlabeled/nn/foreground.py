"""How likely each pixel of a whole picture is of an object, by an encoder and a decoder with one output."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unlabeled.data.sampling import tiles
from unlabeled.nn.encoders import Encoder

EDGE, MARGIN = 1024, 96  # of what is segmented at once [pixel]


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Let modules work as in evaluation: what they measure of their inputs stands still, gradients go through.

    >>> norm = nn.BatchNorm1d(1)
    >>> with evaluating(norm):
    ...     _ = norm(torch.ones(2, 1))
    >>> norm.training, norm.running_mean
    (True, tensor([0.]))
    """
    before = [module.training for module in modules]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for module, training in zip(modules, before, strict=True):
            module.train(training)


def likelihood(
    encoder: Encoder, decoder: nn.Module, picture: Float[Tensor, "channel rows columns"]
) -> Float[Tensor, "rows columns"]:
    """Compute the probability of the foreground, in evaluation and tile by tile, for pictures of any size.

    Parameters
    ----------
    encoder, decoder
        On any device; the decoder gives one logit a pixel.
    picture
        On the processor.  Its edges are repeated until the network can halve it.
    """
    device = next(encoder.parameters()).device
    steps = [max(16, math.lcm(*along)) for along in zip(*encoder.strides, strict=True)]
    likely = torch.empty(picture.shape[1:])
    with evaluating(encoder, decoder):
        for tile in tiles(picture.shape[1:], (EDGE, EDGE), (MARGIN, MARGIN)):
            (top, left), (rows, columns) = tile.start, tile.size
            part = picture[None, :, top : top + rows, left : left + columns].to(device)
            more = (0, -columns % steps[1], 0, -rows % steps[0])
            padded = F.pad(part, more, mode="replicate")
            logits = decoder(encoder(padded), padded.shape[2:])[0, 0, :rows, :columns]
            likely[tile.place] = logits.float().sigmoid()[tile.inner].cpu()
    return likely
