"""Points of maps: reading, choosing, saying anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.nn.points import (
    PointHead,
    cell_centres,
    choose_points,
    draw_points,
    enlarge,
    most_uncertain,
    read_points,
    render,
    uncertainty,
    unsure_at,
)


def tensors(file, *names):
    return [torch.from_numpy(file[name]) for name in names]


def test_must_have_1_reading_matches_the_golden_arrays(golden):
    known = np.load(golden / "contrastive-rendering" / "point_sample.npz")
    volume, points, linear, nearest = tensors(known, "volume", "points_xyz", "trilinear", "nearest")
    torch.testing.assert_close(read_points(volume, points), linear, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        read_points(volume, points, nearest=True), nearest, atol=1e-5, rtol=0
    )


def test_must_have_2_the_most_uncertain_voxels_match_the_golden_arrays(golden):
    known = np.load(golden / "contrastive-rendering" / "uncertain_points_inference.npz")
    logits, index, points, unsure = tensors(known, "logits", "index", "points_xyz", "uncertainty")
    found = most_uncertain(logits, int(known["n_points"]))
    assert torch.equal(found, index)
    torch.testing.assert_close(cell_centres(found, logits.shape[2:]).float(), points)
    torch.testing.assert_close(uncertainty(logits), unsure)


def test_must_have_3_choosing_matches_the_golden_arrays(golden):
    known = np.load(golden / "contrastive-rendering" / "uncertain_points_training.npz")
    logits, candidates, others, chosen, before, after = tensors(
        known,
        "logits",
        "candidates_xyz",
        "coverage_xyz",
        "selected_xyz",
        "candidate_uncertainty",
        "candidate_uncertainty_sorted_after_sampling",
    )
    for ranked, expected in (("before", before), ("after", after)):
        found = unsure_at(logits, candidates, ranked=ranked)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    kept = chosen.shape[1] - others.shape[1]
    found = choose_points(logits, candidates, others, ranked="before", count=kept)
    torch.testing.assert_close(found, chosen, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dims", [2, 3])
def test_must_have_4_three_quarters_of_the_points_are_the_least_sure_of_three_times_as_many(
    dims, monkeypatch
):
    torch.manual_seed(0)
    logits = torch.randn(2, 3, *(8,) * dims)
    drawn = []
    real = torch.rand

    def rand(*shape, **how):
        drawn.append(real(*shape, **how))
        return drawn[-1]

    monkeypatch.setattr(torch, "rand", rand)
    points = draw_points(logits, 40)
    candidates, others = drawn
    assert candidates.shape == (2, 120, dims)
    assert torch.equal(points[:, 30:], others)
    unsure = unsure_at(logits, candidates, ranked="after").sort(descending=True).values
    torch.testing.assert_close(unsure_at(logits, points[:, :30], ranked="after"), unsure[:, :30])


def test_must_have_7_the_head_and_two_rounds_match_the_golden_arrays(golden):
    known = np.load(golden / "contrastive-rendering" / "render_head.npz")
    fine = tensors(known, "fine1", "fine2")
    (coarse,) = tensors(known, "coarse")
    head = PointHead(3, 96)
    head.load_state_dict(
        {
            name.removeprefix("param."): torch.from_numpy(known[name])
            for name in known
            if name.startswith("param.")
        }
    )
    points, said, full = tensors(known, "train_points_xyz", "train_rend_logits", "fine_logits")
    with torch.no_grad():
        torch.testing.assert_close(head(coarse, fine, points), said, atol=1e-4, rtol=0)
        found = render(
            coarse, fine, head, full.shape[2:], points=int(known["num_points"]), corners=True
        )
    torch.testing.assert_close(found, full, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("corners", [True, False])
def test_must_have_8_and_9_what_is_not_said_anew_is_the_enlarged_coarse_map(dims, corners):
    torch.manual_seed(0)
    coarse, fine = torch.randn(2, 3, *(4,) * dims), [torch.randn(2, 5, *(4,) * dims)]
    head = PointHead(3, 5)
    torch.nn.init.zeros_(head.mlp[-1].weight)
    bias = head.mlp[-1].bias.detach()
    space = (8,) * dims
    with torch.no_grad():
        found = render(coarse, fine, head, space, points=7, corners=corners)
    plain = enlarge(coarse, space, corners=corners)
    index = most_uncertain(plain, 7)
    anew = torch.zeros(2, 8**dims, dtype=torch.bool).scatter(1, index, value=True)
    flat = found.flatten(2)
    assert torch.equal(flat.transpose(1, 2)[~anew], plain.flatten(2).transpose(1, 2)[~anew])
    assert torch.allclose(flat.transpose(1, 2)[anew], bias.expand(14, 3))


@given(space=st.lists(st.integers(1, 7), min_size=2, max_size=3), seed=st.integers(0, 99))
def test_centres_of_voxels_read_exactly_these_voxels(space, seed):
    maps = torch.randn(1, 2, *space, generator=torch.Generator().manual_seed(seed))
    index = torch.arange(maps[0, 0].numel())[None]
    read = read_points(maps, cell_centres(index, space))
    torch.testing.assert_close(read, maps.flatten(2), atol=1e-4, rtol=1e-4)


def test_rendering_reaches_sizes_that_are_no_multiple_of_four():
    coarse = torch.randn(1, 2, 4, 5)
    head = PointHead(2, 3)
    assert render(coarse, [torch.randn(1, 3, 4, 5)], head, (15, 18), points=9).shape[2:] == (15, 18)
