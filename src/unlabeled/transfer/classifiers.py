"""Small classifiers on fixed features: logistic regression, nearest neighbours, and the choice of their one setting."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.rng import generator

#: Penalties of the linear probe and neighbours of the other that cross-validation chooses from.
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
NEIGHBOURS = (1, 3, 5, 10, 20)
FOLDS = 5
#: Temperature of the neighbours' votes (Wu et al., CVPR 2018).
TEMPERATURE = 0.07


def fit_linear(
    features: Tensor, labels: Tensor, classes: int, penalty: float
) -> Callable[[Tensor], Tensor]:
    """Fit multinomial logistic regression on standardised features; a convex problem, solved to the end by L-BFGS.

    Parameters
    ----------
    features
        ``scan feature``.
    labels
        Class of each scan.
    classes
        How many there are.
    penalty
        Weight of half the squared norm of the weights (the bias is free) beside the mean cross entropy [nat].

    Returns
    -------
    callable
        From features to probabilities, ``scan class``.
    """
    features = features.double()
    centre = features.mean(0)
    spread = features.std(0, correction=0)
    spread = torch.where(spread > 1e-12, spread, torch.ones_like(spread))
    inputs = (features - centre) / spread
    weight = torch.zeros(inputs.shape[1], classes, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=500,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(inputs @ weight + bias, labels) + penalty / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    solver.step(closure)  # type: ignore[no-untyped-call]
    slope, offset = weight.detach(), bias.detach()
    return lambda given: (((given.double() - centre) / spread) @ slope + offset).softmax(1)


def fit_neighbours(
    features: Tensor, labels: Tensor, classes: int, neighbours: float
) -> Callable[[Tensor], Tensor]:
    """Let the nearest training scans vote, each weighted by ``exp(cosine / 0.07)``.

    Parameters
    ----------
    features, labels, classes
        As in `fit_linear`; features are centred on the training mean, then of unit length.
    neighbours
        How many vote; all, where there are fewer.

    Returns
    -------
    callable
        From features to shares of the vote, ``scan class``.

    Notes
    -----
    Source: Wu et al., CVPR 2018, section 3.4.
    """
    centre = features.mean(0)
    bank = F.normalize(features - centre, dim=1)
    count = min(int(neighbours), len(bank))

    def answer(given: Tensor) -> Tensor:
        likeness, nearest = (F.normalize(given - centre, dim=1) @ bank.T).topk(count, dim=1)
        votes = ((likeness - 1) / TEMPERATURE).exp()
        shares = torch.zeros(len(given), classes).scatter_add_(1, labels[nearest], votes)
        return shares / shares.sum(1, keepdim=True)

    return answer


def choose(
    fit: Callable[[Tensor, Tensor, int, float], Callable[[Tensor], Tensor]],
    candidates: Sequence[float],
    features: Tensor,
    labels: Tensor,
    subjects: Sequence[str],
    classes: int,
    *,
    seed: int,
) -> float:
    """Choose a setting by cross-validation over training subjects: the highest mean log-likelihood, first of equals.

    With fewer than three subjects there is nothing to compare, and the middle candidate is taken.
    """
    names = sorted(set(subjects))
    if len(names) < 3:
        return candidates[len(candidates) // 2]
    order = torch.randperm(len(names), generator=generator(seed, "folds")).tolist()
    fold_of = {names[place]: turn % FOLDS for turn, place in enumerate(order)}
    folds = torch.tensor([fold_of[subject] for subject in subjects])
    best, best_score = candidates[0], -math.inf
    for candidate in candidates:
        total = 0.0
        for fold in range(min(FOLDS, len(names))):
            inside, outside = folds != fold, folds == fold
            likely = fit(features[inside], labels[inside], classes, candidate)(features[outside])
            told = likely.gather(1, labels[outside, None]).clamp(min=1e-3)
            total += float(told.log().sum())
        if total > best_score + 1e-9:
            best, best_score = candidate, total
    return best
