"""Losses between images and texts: whole with whole, words with the regions that they attend to, and texts written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def global_scores(
    images: Float[Tensor, "image width"], texts: Float[Tensor, "text width"]
) -> Float[Tensor, "image text"]:
    """Compare every image with every text: the cosine of their vectors.

    >>> global_scores(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    tensor([[1., 0.]])
    """
    with torch.autocast(images.device.type, enabled=False):
        return F.normalize(images.float(), dim=1) @ F.normalize(texts.float(), dim=1).T


def attention(
    affinity: Float[Tensor, "*batch word region"],
    used: Bool[Tensor, "*batch word"],
    sharpness: float = 4.0,
) -> Float[Tensor, "*batch word region"]:
    """Let every word attend to regions: rows of weights that sum to 1.

    Two softmaxes, in this order: each region is shared out among the words, then each word weighs the regions by
    `sharpness` times its share.  (The other way round every word would attend alike.)

    Parameters
    ----------
    affinity
        Dot products of words and regions.
    used
        Which words there are; the others take no share, and their own rows mean nothing.
    sharpness
        Temperature of the second softmax, as a factor (tau 1 of the paper).

    Notes
    -----
    Source: official code of GLoRIA (Huang et al., ICCV 2021).
    """
    shares = affinity.masked_fill(~used[..., None], -torch.inf).softmax(-2)
    return (sharpness * shares).softmax(-1)


def attend(
    regions: Float[Tensor, "batch region width"],
    words: Float[Tensor, "batch word width"],
    used: Bool[Tensor, "batch word"],
    sharpness: float = 4.0,
) -> tuple[Float[Tensor, "batch word width"], Float[Tensor, "batch word region"]]:
    """Give the weighted sum of regions that each word of an image's own text attends to, and the weights."""
    with torch.autocast(regions.device.type, enabled=False):
        regions, words = regions.float(), words.float()
        weights = attention(words @ regions.transpose(1, 2), used, sharpness)
        return weights @ regions, weights


def word_scores(
    regions: Float[Tensor, "image region width"],
    words: Float[Tensor, "text word width"],
    used: Bool[Tensor, "text word"],
    sharpness: float = 4.0,
) -> Float[Tensor, "image text word"]:
    """Compare every word of every text with the regions of every image that it attends to: cosines.

    In 32-bit numbers whatever the precision, as dot products of long vectors saturate the softmax.
    """
    with torch.autocast(regions.device.type, enabled=False):
        regions, words = regions.float(), words.float()
        affinity = torch.einsum("tnd,imd->itnm", words, regions)
        weights = attention(affinity, used, sharpness)
        attended = torch.einsum("itnm,imd->itnd", weights, regions)
        return F.cosine_similarity(words[None], attended, dim=-1)


def local_scores(
    regions: Float[Tensor, "image region width"],
    words: Float[Tensor, "text word width"],
    counts: Int[Tensor, " text"],
    *,
    sharpness: float = 4.0,
    peak: float = 5.0,
    agg: Literal["sum", "mean"] = "sum",
) -> Float[Tensor, "image text"]:
    """Match every image with every text by words: the log of the sum (or mean) over words of exp(peak * cosine).

    Parameters
    ----------
    regions
        Of every image, not normalised.
    words
        Of every text, not normalised; those beyond its count take no part.
    counts
        Words of each text, at least one.
    sharpness, peak
        Temperatures as factors (tau 1 and tau 2 of the paper).
    agg
        With ``mean``, long texts gain nothing by their length.

    Notes
    -----
    Source: official code of GLoRIA (Huang et al., ICCV 2021).

    >>> local_scores(torch.ones(1, 4, 2), torch.ones(1, 3, 2), torch.tensor([3]))   # log(3 exp(5 * 1))
    tensor([[6.0986]])
    """
    longest = int(counts.max())
    used = torch.arange(longest, device=counts.device) < counts[:, None]
    cosines = word_scores(regions, words[:, :longest], used, sharpness)
    scores = (peak * cosines).masked_fill(~used, -torch.inf).logsumexp(-1)
    return scores if agg == "sum" else scores - counts.log()


def both_ways(
    scores: Float[Tensor, "image text"], factor: float = 10.0
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Cross entropies of finding each image's text among all texts, and each text's image among all images [nat].

    Parameters
    ----------
    scores
        Text i belongs to image i.
    factor
        What scores are multiplied with (tau 3 of GLoRIA; 1 / temperature elsewhere).

    >>> [round(float(each), 3) for each in both_ways(torch.eye(2), factor=1.0)]     # log(1 + 1/e), twice
    [0.313, 0.313]
    """
    logits = factor * scores.float()
    own = torch.arange(len(logits), device=logits.device)
    return F.cross_entropy(logits, own), F.cross_entropy(logits.T, own)


def writing_errors(
    logits: Float[Tensor, "text piece word"],
    ids: Int[Tensor, "text piece"],
    ignored: Sequence[int] = (0,),
) -> tuple[Float[Tensor, " text"], Float[Tensor, " text"]]:
    """Sum up what it costs to write each text piece by piece, each after those before it, and count its pieces.

    The sum of all costs over the count of all pieces is the mean cross entropy [nat].

    Parameters
    ----------
    logits
        What is said at each piece of the piece behind it.
    ids
        The texts, start and padding included.
    ignored
        Pieces that nobody has to write: padding.

    >>> costs, pieces = writing_errors(torch.zeros(1, 4, 8), torch.tensor([[1, 5, 2, 0]]))
    >>> round((costs / pieces).item(), 4), pieces.item()          # log(8), for the word and for the stop
    (2.0794, 2.0)
    """
    targets = ids[:, 1:]
    asked = torch.stack([targets != each for each in ignored]).all(0)
    rows = (
        logits[:, :-1].float().flatten(0, 1)
    )  # a piece a row: several times as fast as by columns
    each = F.cross_entropy(rows, targets.flatten(), reduction="none").view_as(targets)
    return each.masked_fill(~asked, 0.0).sum(1), asked.float().sum(1)


def same_text(
    ids: Int[Tensor, "text piece"],
) -> tuple[Bool[Tensor, "text text"], Float[Tensor, ""]]:
    """Tell which texts of a batch are the same, and the share of those that are there more than once.

    >>> float(same_text(torch.tensor([[1, 5], [1, 6], [1, 5], [1, 7]]))[1])
    0.5
    """
    same = (ids[:, None] == ids[None]).all(-1)
    return same, (same.sum(1) > 1).float().mean()


def found_share(
    scores: Float[Tensor, "image text"], right: Bool[Tensor, "image text"]
) -> Float[Tensor, ""]:
    """Count how often the best text of an image, and the best image of a text, is a right one: mean of both shares."""
    rows = torch.arange(len(right), device=right.device)
    texts, images = right[rows, scores.argmax(1)], right[scores.argmax(0), rows]
    return (texts.float().mean() + images.float().mean()) / 2


def evenness(weights: Float[Tensor, "*batch region"]) -> Float[Tensor, " *batch"]:
    """Measure the entropy of attention, relative to attending everywhere alike.

    >>> evenness(torch.tensor([[0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]]))
    tensor([1., 0.])
    """
    entropy: Tensor = torch.special.entr(weights).sum(-1)
    return entropy / math.log(max(2, weights.shape[-1]))
