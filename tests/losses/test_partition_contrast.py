"""Contrast of slices and regions: golden values, a slow reference written from the formula, and who is compared."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from unlabeled.losses.partition_contrast import (
    GRID,
    PLACES,
    global_contrast,
    global_pairs,
    local_contrast,
)
from unlabeled.nn.regions import REGION, grid_places

SLUG = "global-local-contrast"


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def term(anchor: Tensor, positive: Tensor, negatives: list[Tensor], temperature: float) -> float:
    """The formula, number by number."""
    like = [math.exp(float(F.cosine_similarity(anchor, each, dim=0)) / temperature) for each in (positive, *negatives)]  # fmt: skip
    return -math.log(like[0] / sum(like))


def test_golden_global(golden: Path) -> None:
    """G^D-: 3 volumes in 3 views of 4 partitions, views first; G^D: rows of a volume, then of its copies, in turn."""
    arrays = np.load(golden / SLUG / "global_loss.npz")
    minus = torch.from_numpy(arrays["gd_minus_embeddings"]).view(3, 3, 4, 32).transpose(0, 1)
    assert float(global_contrast(minus, across=False)) == pytest.approx(
        float(arrays["gd_minus_loss"]), rel=1e-5
    )
    for name in ("gd", "gd_b8", "gd_zero_tail"):
        both = torch.from_numpy(arrays[f"{name}_embeddings"]).view(-1, 2, 4, 32)
        assert float(global_contrast(both, across=True)) == pytest.approx(
            float(arrays[f"{name}_loss"]), rel=1e-5
        )


def regions_of(maps: Tensor, weight: Tensor) -> Tensor:
    """Project the 3 x 3 regions of ``row rows columns channel``, channels last as in the published code."""
    tops, lefts = (grid_places(edge, GRID) for edge in maps.shape[1:3])
    cut = [maps[:, i : i + REGION, j : j + REGION].flatten(1) @ weight for i in tops for j in lefts]
    return torch.stack(cut, 1)


def test_golden_local(golden: Path) -> None:
    arrays = np.load(golden / SLUG / "local_loss.npz")
    weight = torch.from_numpy(arrays["projection"])
    within = regions_of(torch.from_numpy(arrays["lr_feature_maps"]), weight)
    loss = local_contrast(within.view(3, 2, 1, 25, 128), across=False)
    assert float(loss) == pytest.approx(float(arrays["lr_loss"]), rel=1e-5)
    across = regions_of(torch.from_numpy(arrays["ld_feature_maps"]), weight)
    loss = local_contrast(across.view(2, 3, 4, 25, 128).transpose(0, 1), across=True)
    assert float(loss) == pytest.approx(float(arrays["ld_loss"]), rel=1e-5)


@pytest.mark.parametrize("size", [16, 48])
def test_golden_places(golden: Path, size: int) -> None:
    arrays = np.load(golden / SLUG / "local_loss.npz")
    at = grid_places(size, GRID)
    own = [[at[i], at[j]] for (i, j), _ in PLACES]
    near = [[[at[i], at[j]] for i, j in beside] for _, beside in PLACES]
    assert own == arrays[f"positions_{size}x{size}"].tolist()
    assert near == arrays[f"negatives_{size}x{size}"].tolist()


@pytest.mark.parametrize("across", [False, True])
def test_global_equals_the_formula(across: bool) -> None:
    """Row by row: own views twice and the next volume's row of the same view, in both directions, where across."""
    volumes, partitions, temperature = 3, 2, 0.5
    z = rows(volumes, 2, partitions, 5)
    total = 0.0
    for v in range(volumes):
        for p in range(partitions):
            rest = [z[w, x, q] for w in range(volumes) for x in range(2) for q in range(partitions) if q != p]  # fmt: skip
            pairs = [(z[v, 0, p], z[v, 1, p])] * (2 if across else 1)
            if across:
                pairs += [(z[v, x, p], z[(v + 1) % volumes, x, p]) for x in range(2)]
            for a, b in pairs:
                total += term(a, b, rest, temperature) + term(b, a, rest, temperature)
    expected = total / (volumes * 2 * partitions)
    assert float(global_contrast(z, across=across, temperature=temperature)) == pytest.approx(
        expected, rel=1e-5
    )


@given(
    volumes=st.integers(1, 5), views=st.integers(2, 3), partitions=st.integers(2, 5), across=st.booleans()
)  # fmt: skip
def test_no_negative_shares_the_partition_and_partners_are_other_volumes(
    volumes: int, views: int, partitions: int, across: bool
) -> None:
    pairs, negatives = global_pairs(volumes, views, partitions, across=across)
    index = torch.arange(volumes * views * partitions)
    partition, view = index % partitions, index // partitions % views
    volume = index // (partitions * views)
    for row in index.tolist():
        assert (partition[negatives[row]] != partition[row]).all()
        assert negatives[row].sum() == volumes * views * (partitions - 1)
        chosen = pairs[row] > 0
        assert (partition[chosen] == partition[row]).all()
        assert not chosen[row]
        others = chosen & (volume != volume[row])
        assert bool(others.any()) == (across and volumes > 1)
        assert (view[others] == view[row]).all()
    assert torch.equal(pairs, pairs.T)


@given(seed=st.integers(0, 1000), across=st.booleans())
def test_lengths_of_embeddings_do_not_matter(seed: int, across: bool) -> None:
    z = rows(3, 2, 4, 6, seed=seed)
    longer = z * torch.rand(3, 2, 4, 1).add(0.1)
    for one, other in [
        (global_contrast(z, across=across), global_contrast(longer, across=across)),
        (
            local_contrast(rows(2, 2, 3, 25, 6, seed=seed), across=across),
            local_contrast(7 * rows(2, 2, 3, 25, 6, seed=seed), across=across),
        ),
    ]:
        assert float(one) == pytest.approx(float(other), rel=1e-4)


def test_knowing_nothing_costs_the_logarithm_of_the_candidates() -> None:
    """G^D-: each row is in two positive pairs as an anchor, with 27 negatives; L^R: 10 negatives; L^D: 8, 3 positives."""
    still = torch.ones(3, 3, 4, 8)
    assert float(global_contrast(still, across=False)) == pytest.approx(2 * math.log(28))
    maps = torch.ones(3, 2, 4, 25, 8)
    assert float(local_contrast(maps, across=False)) == pytest.approx(math.log(11))
    assert float(local_contrast(maps, across=True)) == pytest.approx(1.5 * math.log(9))


def test_every_version_and_volume_takes_part_in_the_local_loss() -> None:
    for across in (False, True):
        maps = rows(3, 2, 2, 25, 6).requires_grad_()
        local_contrast(maps, across=across).backward()
        assert maps.grad is not None
        assert (maps.grad.abs().sum((2, 3, 4)) > 0).all()


def test_fewer_places_are_compared_on_demand() -> None:
    maps = rows(1, 2, 1, 25, 6)
    terms = [float(local_contrast(maps, across=False, places=n)) * n for n in (8, 9)]
    place, near = PLACES[8]
    row = [maps[0, each, 0] for each in (0, 1)]
    at = GRID * place[0] + place[1]
    others = [r[GRID * i + j] for r in row for i, j in near]
    both = (term(row[0][at], row[1][at], others, 0.1) + term(row[1][at], row[0][at], others, 0.1)) / 2  # fmt: skip
    assert terms[1] - terms[0] == pytest.approx(both, rel=1e-3)


def test_half_precision_rows_are_compared_in_single_precision() -> None:
    z = rows(3, 2, 4, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = global_contrast(z, across=True)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, global_contrast(z, across=True))
