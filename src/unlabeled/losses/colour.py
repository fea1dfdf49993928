"""How far painted colours are from the true ones."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unlabeled.losses.restoration import masked_error


def colour_scores(
    painted: Float[Tensor, "batch 2 rows columns"],
    colour: Float[Tensor, "batch 2 rows columns"],
    inside: Bool[Tensor, "batch 1 rows columns"],
    unit: float = 1.0,
) -> dict[str, Tensor]:
    """Measure the mean absolute error of a* and b*, beside two ways of knowing nothing, and how colourful it is.

    ``constant`` is the error of the best single colour for these very images, ``grey`` that of no colour at all; ``chroma``
    is the mean chroma that was painted over the true one.  ``balanced_error`` is the error once every image, painted and
    true, has the mean colour of grey: what is left when cameras differ in white balance, which lightness does not tell;
    ``balanced_constant`` that of one colour an image.

    Parameters
    ----------
    painted, colour
        In the same unit.
    inside
        Pixels that count; one at least.
    unit
        How much of a* and b* 1 is.

    >>> true, seen = torch.tensor([[3.0, 3.0], [4.0, 4.0]]).view(1, 2, 2, 1), torch.ones(1, 1, 2, 1, dtype=torch.bool)
    >>> {name: float(score) for name, score in colour_scores(0.5 * true, true, seen).items()}
    {'error': 1.75, 'constant': 0.0, 'grey': 3.5, 'balanced_error': 0.0, 'balanced_constant': 0.0, 'chroma': 0.5}
    """
    mask = inside.expand_as(colour)
    middle = torch.stack([part[mask[:, 0]].median() for part in colour.unbind(1)])
    nothing, flat = torch.zeros_like(colour), balance(colour, mask)
    guesses = {
        "error": (painted, colour),
        "constant": (middle.view(1, 2, 1, 1).expand_as(colour), colour),
        "grey": (nothing, colour),
        "balanced_error": (balance(painted, mask), flat),
        "balanced_constant": (nothing, flat),
    }
    errors = {
        name: unit * masked_error(guess, true, mask, power=1)
        for name, (guess, true) in guesses.items()
    }
    strength = [each.norm(dim=1)[mask[:, 0]].mean() for each in (painted, colour)]
    return {**errors, "chroma": strength[0] / strength[1].clamp(min=1e-6)}


def balance(
    colour: Float[Tensor, "batch 2 rows columns"], mask: Bool[Tensor, "batch 2 rows columns"]
) -> Float[Tensor, "batch 2 rows columns"]:
    """Balance white: give the pixels that count the mean colour of grey, image by image (a grey world)."""
    seen = colour.where(mask, 0)
    count = mask.sum((2, 3), keepdim=True).clamp(min=1)
    return colour - seen.sum((2, 3), keepdim=True) / count
