"""Every must-have of shape landmarks, and that landmarks found on real scans register them and follow the anatomy."""

from __future__ import annotations

import csv
import math
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from torch import nn

from unlabeled.data.index import index_scans
from unlabeled.data.sampling import centre_patch, centre_start, pair_scans
from unlabeled.errors import DataError, OptionError
from unlabeled.methods.shape_landmarks import Options, Sample, ShapeLandmarks
from unlabeled.nn.encoders import Encoder, build_encoder
from unlabeled.nn.warp import (
    condition_number,
    corners,
    identity_grid,
    radial,
    solve_spline,
    spline_grid,
    spline_matrix,
)
from unlabeled.rng import generator
from unlabeled.training.pretrain import pretrain
from unlabeled.transfer.predict import predict
from unlabeled.transfer.products import load_method

BOTH = pytest.mark.parametrize("fidelity", ["clean", "official"])
DIMS = pytest.mark.parametrize("dims", [2, 3])
STEPS = 160
SPACE = {2: (16, 12), 3: (12, 10, 8)}


class Fine(Encoder):
    """A small encoder without normalisation, so that companions of a batch do not matter."""

    entry = "conv"

    def __init__(self, dims: int, in_channels: int = 1) -> None:
        super().__init__()
        self.name, self.dims, self.in_channels = "fine", dims, in_channels
        self.channels, self.strides = (6,), ((2,) * dims,)
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        self.conv = convolution(in_channels, 6, 3, stride=2, padding=1)

    def forward(self, image):
        return [torch.relu(self.conv(image))]


def method(dims: int = 2, *, settled: bool = True, **options) -> ShapeLandmarks:
    """A small method; `settled` gives the last layer weights, as after some training."""
    torch.manual_seed(0)
    values = {"landmarks": 7 if dims == 2 else 12, "patch_size": SPACE[dims], "batch_size": 2}
    small = ShapeLandmarks(Options(**(values | options)), Fine(dims))
    if settled:
        nn.init.normal_(small.head.last.weight, std=0.05)
    return small


def images(dims: int = 2, count: int = 2, seed: int = 0) -> Sample:
    rng = torch.Generator().manual_seed(seed)
    return Sample(*torch.rand(2, count, 1, *SPACE[dims], generator=rng))


def arrays(golden: Path, name: str) -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(v) for k, v in np.load(golden / "shape-landmarks" / name).items()}


@dataclass
class Held:
    """A record in memory."""

    subject: str
    array: torch.Tensor
    source: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(split=None))

    @property
    def space(self) -> tuple[int, ...]:
        return tuple(self.array.shape[1:])

    @property
    def dims(self) -> int:
        return len(self.space)

    def patch(self, start, size) -> torch.Tensor:
        padded = nn.functional.pad(self.array, [20] * (2 * self.dims))
        cut = [slice(at + 20, at + 20 + edge) for at, edge in zip(start, size, strict=True)]
        return padded[(slice(None), *cut)]


def people(dims: int = 2, count: int = 4) -> list[Held]:
    return [Held(f"s{n}", images(dims, 1, seed=n).source[0]) for n in range(count)]


# ---- must-haves


@DIMS
def test_must_have_1_points_that_stay_give_the_source_back(dims):
    small, batch = method(dims), images(dims)
    points = small.landmarks(batch.source)
    warped = small.warp(batch.source, points, points)
    torch.testing.assert_close(warped.image, batch.source, atol=1e-5, rtol=0)
    matrix = spline_matrix(points.double(), small.options.damping)
    grid = spline_grid(solve_spline(matrix, points.double()), points.double(), SPACE[dims])
    still = identity_grid(SPACE[dims], dtype=torch.float64)
    torch.testing.assert_close(grid[0], still, atol=1e-5, rtol=0)


def test_must_have_2_the_spline_takes_each_target_point_to_its_source_point(golden):
    given = arrays(golden, "tps.npz")
    weights = solve_spline(spline_matrix(given["landT"]), given["landS"])
    distance = (given["landT"][:, :, None] - given["landT"][:, None]).square().sum(-1)
    met = (
        radial(distance, 2) @ weights[:, :12] + given["landT"] @ weights[:, 12:14] + weights[:, 14:]
    )
    torch.testing.assert_close(met, given["landS"], atol=1e-4, rtol=0)


@DIMS
def test_must_have_2_a_mark_at_a_source_point_arrives_at_the_target_point(dims):
    """Seen in the image: not only in the formula."""
    small = method(dims)
    space = (17,) * dims
    here, there = small.landmarks(torch.rand(2, 1, *space)).detach().split(1)
    here = here.clone()
    here[:, 0], there[:, 0] = 0.25, -0.25
    source = torch.zeros(1, 1, *space)
    source[(0, 0, *(10,) * dims)] = 1.0  # voxel 10 of 17 is at 0.25, voxel 6 at -0.25
    warped = small.warp(source, here, there).image
    assert float(warped[(0, 0, *(6,) * dims)]) > 0.99


@DIMS
def test_must_have_3_affine_points_need_no_kernel(dims):
    points = method(dims).landmarks(images(dims).source).detach()
    linear = torch.eye(dims) + 0.1 * torch.arange(dims * dims).view(dims, dims)
    weights = solve_spline(spline_matrix(points), points @ linear.T + 0.3)
    assert weights[:, : points.shape[1]].abs().max() < 1e-4
    torch.testing.assert_close(weights[0, -1], torch.full((dims,), 0.3), atol=1e-4, rtol=0)


@DIMS
def test_must_have_4_side_conditions(dims):
    batch = images(dims)
    here, there = (method(dims).landmarks(part).detach().double() for part in batch)
    kernel = solve_spline(spline_matrix(there), here)[:, : there.shape[1]]
    assert kernel.sum(1).abs().max() < 1e-4
    assert torch.einsum("bnc,bna->bca", kernel, there).abs().max() < 1e-4


@BOTH
def test_must_have_5_swapping_the_images_swaps_the_points(fidelity):
    small, batch = method(fidelity=fidelity), images()
    forth, back = small.register(*batch), small.register(batch.target, batch.source)
    torch.testing.assert_close(forth.source, small.landmarks(batch.source))
    torch.testing.assert_close(forth.source, back.target)
    torch.testing.assert_close(forth.target, back.source)
    assert not torch.allclose(forth.source, forth.target)


@BOTH
def test_must_have_6_corners_are_constant_and_last(fidelity):
    small = method(fidelity=fidelity)
    expected = torch.tensor([[-1.0, -1], [-1, 1], [1, 1], [1, -1]])
    for seed in range(3):
        for found in small.landmarks(images(seed=seed).source):
            assert torch.equal(found[-4:], expected)
    assert small.landmarks(images().source).shape == (2, 7, 2)
    assert method(corners=False).head.last.out_features == 14
    solid = method(3).landmarks(images(3).source)[0, -8:]
    assert torch.equal(solid, corners(3))
    assert len(torch.unique(solid, dim=0)) == 8
    assert (solid.abs() == 1).all()


@DIMS
def test_must_have_7_at_first_every_image_has_the_same_points_inside(dims):
    small = method(dims, settled=False)
    found = small.landmarks(torch.cat(images(dims)))[:, : len(small.usefulness)]
    assert (found == found[:1]).all()
    assert found.abs().max() < 1
    assert len(torch.unique(found[0])) > 1


@BOTH
def test_must_have_8_kappa_rises_when_points_meet_and_pushes_them_apart(fidelity):
    small = method(fidelity=fidelity)
    apart = torch.tensor([[[-0.4, -0.3], [0.5, 0.1], [0.0, 0.6], *corners(2).tolist()]])
    near = apart.clone()
    near[0, 1] = near[0, 0] + torch.tensor([0.01, 0.0])
    raw = [float(condition_number(spline_matrix(each.double()))) for each in (apart, near)]
    assert raw[1] > 100 * raw[0]
    near.requires_grad_()
    small.kappa(spline_matrix(near.double())).backward()
    downhill = -near.grad[0, 1] + near.grad[0, 0]
    assert downhill[0] > 10 * downhill[1].abs()


@DIMS
def test_must_have_9_the_loss_compares_the_warped_source_with_the_target(dims):
    small, batch = method(dims, alpha=0.0), images(dims)
    (update,) = small.step(batch)
    error = (small.register(*batch).image - batch.target).square().mean()
    torch.testing.assert_close(update.loss, error)
    found = []
    find = small.landmarks

    def kept(image):
        found.append(find(image))
        found[-1].retain_grad()
        return found[-1]

    small.landmarks = kept
    (update,) = small.step(batch)
    update.loss.backward()
    learned = found[0].grad[:, : len(small.usefulness)]  # two sources, then two targets
    assert learned.abs().sum(-1).min() > 0


@BOTH
def test_the_condition_number_is_part_of_the_loss(fidelity):
    small, batch = method(fidelity=fidelity, alpha=0.5).eval(), images()
    (update,) = small.step(batch)
    warped = small.register(*batch)
    kappa = small.kappa(warped.matrix)
    torch.testing.assert_close(
        update.loss, small.match(warped.image, batch.target) + 0.5 * kappa, rtol=1e-4, atol=1e-5
    )
    assert float(kappa.detach()) > 1


def test_must_have_10_the_published_number_of_weights():
    encoder = build_encoder("landmark-cnn", dims=2, in_channels=3)
    whole = ShapeLandmarks(Options(), encoder)
    assert sum(each.numel() for each in whole.parameters()) == 3_199_060
    assert whole.landmarks(torch.rand(1, 3, 256, 256)).shape == (1, 30, 2)


@DIMS
@BOTH
def test_must_have_11_ranking_keeps_so_many_different_landmarks_in_order(dims, fidelity):
    small = method(dims, kept=2, fidelity=fidelity)
    small.remove_redundant(people(dims))
    assert len(set(small.order.tolist())) == 2
    ranked = small.usefulness[small.order].tolist()
    assert ranked == sorted(ranked, reverse=True)
    assert ranked == small.usefulness.sort(descending=True).values[:2].tolist()
    assert len(method(dims, kept=99).order) == len(small.usefulness)  # no more than there are


def test_must_have_12_published_splines(golden):
    given = arrays(golden, "tps.npz")
    matrix = spline_matrix(given["landT"])
    distance = (given["landT"][:, :, None] - given["landT"][:, None]).square().sum(-1)
    torch.testing.assert_close(radial(distance, 2), given["kernel_TT"], atol=1e-5, rtol=0)
    big = torch.stack([torch.block_diag(one, one) for one in matrix])
    torch.testing.assert_close(big, given["A_big"], atol=1e-5, rtol=0)
    for damping, name, tolerance in [(0.0, "w", 1e-4), (0.01, "w_eps_0p01", 1e-3)]:
        weights = solve_spline(matrix, given["landS"], damping)
        stacked = weights.transpose(1, 2).flatten(1)[..., None]
        torch.testing.assert_close(stacked, given[name], atol=tolerance, rtol=0)
    grid = spline_grid(solve_spline(matrix, given["landS"]), given["landT"], (48, 64))
    torch.testing.assert_close(grid, given["sample_grid"], atol=1e-4, rtol=0)


@BOTH
def test_must_have_12_published_warps(golden, fidelity):
    given = arrays(golden, "tps.npz")
    small = method(fidelity=fidelity, damping=0.0).eval()
    name = "warped_align_false" if fidelity == "official" else "warped_align_true"
    warped = small.warp(given["image"], given["landS"], given["landT"]).image
    torch.testing.assert_close(warped, given[name], atol=1e-3, rtol=0)


def test_must_have_12_published_losses(golden):
    given = arrays(golden, "losses.npz")
    for name in ("l1", "l2"):
        match = method(match={"l1": "l1", "l2": "mse"}[name]).match
        assert float(match(given["x"], given["y"])) == pytest.approx(float(given[name]), abs=1e-5)
    official = method(fidelity="official", damping=0.0)
    matrices = spline_matrix(given["cond_landmarks"].double())
    ours = torch.stack([official.kappa(each[None]) for each in matrices])
    torch.testing.assert_close(ours, given["cond_value"], rtol=1e-3, atol=0)
    mean = float(official.kappa(matrices))
    assert mean == pytest.approx(float(given["cond_value_batch_mean"]), rel=1e-3)


def test_must_have_13_the_kernel_by_hand():
    assert float(radial(torch.tensor(0.25), 2)) == pytest.approx(-0.17324, abs=1e-5)
    assert float(radial(torch.tensor(0.0), 2)) == 0


# ---- what official mode reproduces and clean mode mends


def test_the_official_sampler_blurs_even_the_identity():
    batch = images()
    for fidelity, blurs in (("clean", False), ("official", True)):
        small = method(fidelity=fidelity)
        points = small.landmarks(batch.source)
        error = (small.warp(batch.source, points, points).image - batch.source).detach().abs().max()
        assert (float(error) > 0.05) == blurs


def test_intensities_and_regulariser():
    """Kappa weighs as much against an error from 0 to 1 as officially against one from 0 to 255."""
    clean, plain, official = (
        method(),
        method(regulariser="plain"),
        method(fidelity="official"),
    )
    assert (clean.levels, clean.alpha, clean.logarithm) == (1.0, 1e-3, True)
    assert (official.levels, official.alpha, official.logarithm) == (255.0, 0.01, False)
    assert plain.alpha * 255**2 == pytest.approx(official.alpha)
    assert method(fidelity="official", regulariser="log").alpha == pytest.approx(65.025)
    assert method(alpha=0.5).alpha == 0.5
    batch = images()
    ratio = official.match(*batch) / plain.match(*batch)
    assert float(ratio) == pytest.approx(255**2, rel=1e-5)
    matrix = spline_matrix(clean.landmarks(batch.source).detach().double())
    kappa = plain.kappa(matrix[:1])
    assert float(clean.kappa(matrix[:1])) == pytest.approx(math.log(float(kappa)), rel=1e-5)


def test_official_damping_falls_over_the_first_epoch():
    official = method(fidelity="official", damping=1e-5)
    official.count_steps(people(count=8))  # four steps of two
    seen = []
    for _ in range(6):
        seen.append(official.falling_damping())
        next(iter(official.step(images())))
    assert seen == pytest.approx([1e-5, 0.75e-5, 0.5e-5, 0.25e-5, 0.0, 0.0])
    assert official.eval().falling_damping() == 0
    assert method().falling_damping() == 0


def test_points_that_meet_are_survived():
    """A ridge keeps the loss finite; without it, as published, it is not."""
    batch = images()
    for fidelity, finite in (("clean", True), ("official", False)):
        small = method(fidelity=fidelity).eval()
        with torch.no_grad():
            small.head.last.weight.zero_()
            small.head.last.bias.fill_(0.3)  # all learned points in one place
        (update,) = small.step(batch)
        good = bool(update.loss.detach().abs() < 1e9)
        assert good == finite
        if finite:
            update.loss.backward()
            assert all(each.grad.isfinite().all() for each in small.parameters())


def test_gradients_are_clipped_in_clean_mode():
    for options, clip in [({}, 1.0), ({"fidelity": "official"}, None), ({"clip": 0.3}, 0.3)]:
        (update,) = method(**options).step(images())
        assert update.clip == clip


def test_a_partner_is_another_subject_but_officially_anyone():
    records = people(count=3)
    for fidelity, itself in (("clean", False), ("official", True)):
        small = method(fidelity=fidelity)
        (first, *_) = small.pair(records)
        samples = [small.views(first, generator(seed)) for seed in range(30)]
        assert any(torch.equal(*sample) for sample in samples) == itself
        assert all(torch.equal(each.source, samples[0].source) for each in samples)


def test_a_harmful_landmark_ranks_last_but_officially_high():
    """Of three points one repairs a shift, one does nothing, one spoils the match."""
    source = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    source = nn.functional.avg_pool2d(source, 5, 1, 2)
    there = torch.tensor([[[-0.5, -0.5], [0.0, 0.6], [0.5, -0.4], *corners(2).tolist()]])
    here = there.clone()
    here[0, 0] += torch.tensor([0.1, 0.05])
    clean = method(corners=True)
    target = clean.warp(source, here, there).image.detach()
    spoilt = here.clone()
    spoilt[0, 2] -= 0.4
    for fidelity in ("clean", "official"):
        small = method(fidelity=fidelity).eval()
        small.landmarks = lambda image: torch.cat([spoilt, there])
        change = small.changes(source, target)
        helps, idle, harms = change.detach().tolist()
        if fidelity == "clean":
            assert harms < min(helps, idle)
            assert harms < 0 < helps
        else:
            assert harms > 10 * idle > 0


# ---- what else must hold


def test_a_network_that_ignores_its_input_scores_at_chance():
    small, batch = method(settled=False), images(count=3)
    scores = {name: float(value.detach()) for name, value in small.score(batch).items()}
    assert scores["match"] == pytest.approx(scores["unregistered"], rel=1e-4)
    assert scores["spread"] == pytest.approx(0, abs=1e-6)
    moved = method().score(batch)
    assert float(moved["spread"].detach()) > 0
    points = method().landmarks(batch.target)
    pairs = [torch.pdist(found.detach()).min().item() for found in points]
    assert float(moved["nearest"].detach()) == pytest.approx(np.mean(pairs), rel=1e-3)


@pytest.mark.parametrize("match", ["mse", "l1", "ncc", "mind"])
@DIMS
def test_every_way_to_compare_has_a_gradient(dims, match):
    small = method(dims, match=match)
    (update,) = small.step(images(dims))
    update.loss.backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in small.parameters())
    assert small.head.last.bias.grad.abs().max() > 0
    assert float(small.match(*[images(dims).source] * 2)) == pytest.approx(0, abs=0.05)


def test_any_encoder_serves():
    for name, dims in [("landmark-cnn", 3), ("resenc-tiny", 2), ("unet", 2)]:
        small = ShapeLandmarks(
            Options(patch_size=(16,) * dims, landmarks=12), build_encoder(name, dims=dims)
        )
        (update,) = small.step(Sample(*torch.rand(2, 2, 1, *(16,) * dims)))
        update.loss.backward()
        assert all(each.grad is not None for each in small.parameters())


def test_half_precision_leaves_the_coordinates_whole():
    small, batch = method(), images()
    whole = small.register(*batch)
    with torch.autocast("cpu", torch.bfloat16):
        half = small.register(*batch)
        (update,) = small.step(batch)
    assert half.source.dtype == torch.float32
    assert half.matrix.dtype == torch.float64
    assert update.loss.isfinite()
    torch.testing.assert_close(half.source, whole.source, atol=2e-2, rtol=0)
    assert len(torch.unique(half.source)) > 10


def test_volumes_give_their_middle_slice_to_flat_networks():
    records = [Held(f"s{n}", torch.rand(1, 20, 14, 9)) for n in range(3)]
    small = method()
    sample = small.views(small.pair(records)[0], generator(0))
    assert torch.equal(sample.source, records[0].array[:, 2:18, 1:13, 4])


@DIMS
def test_previews_show_images_in_range(dims):
    small = method(dims)
    shown = small.preview(images(dims))
    assert list(shown) == [
        "source",
        "target",
        "warped source",
        "difference before",
        "difference after",
    ]
    for picture in shown.values():
        assert picture.ndim == dims + 2
        assert picture.min() >= 0
        assert picture.max() <= 1.001
    assert shown["source"].shape[1] == 3
    assert max(shown["source"].shape[2:]) == 160


def test_products_lie_where_the_points_are():
    """A network that answers the patch's middle, on a scan that is larger along one axis and smaller along another."""
    for record, middle in [
        (Held("a", torch.rand(1, 21, 8)), [10.0, 3.5]),
        (Held("a", torch.rand(1, 21, 8, 9)), [10.0, 3.5, 4.0]),
    ]:
        small = method(kept=2, patch_size=(15, 12))
        small.order.copy_(torch.tensor([2, 0]))
        small.landmarks = lambda image: torch.tensor(
            [[[0.0, 0.0], [1.0, 1.0], [0.0, 0.0], *corners(2).tolist()]]
        )
        made = small.product(record)
        assert list(made.points) == ["landmark-03", "landmark-01"]
        for point in made.points.values():
            torch.testing.assert_close(point, torch.tensor(middle))
        assert made.pictures["landmarks"].shape[0] == 3


@pytest.mark.parametrize(
    ("options", "fact", "remedy"),
    [
        ({"landmarks": 4}, "--landmarks is 4, of which 4 are corners", "--landmarks 5"),
        ({"landmarks": 3, "corners": False}, "--landmarks is 3", "--landmarks 4"),
        ({"match": "dice"}, "--match is 'dice'", ""),
        ({"alpha": -1.0}, "--alpha is -1.0", "at least 0"),
    ],
)
def test_wrong_options_are_named(options, fact, remedy):
    with pytest.raises(OptionError, match=fact) as fault:
        method(**options)
    assert remedy in fault.value.remedy


def test_too_few_subjects_are_refused_before_training():
    alone = [Held("s0", torch.rand(1, 8, 8)) for _ in range(5)]
    with pytest.raises(DataError, match="only 1 can be learnt from") as refused:
        ShapeLandmarks.suit(Options(), alone)
    assert "Add subjects" in refused.value.remedy
    named = people(count=3)
    named[2].source.split = "val"
    options = Options()
    assert ShapeLandmarks.suit(options, named) is options
    with pytest.raises(DataError):
        ShapeLandmarks.suit(options, people(count=2))
    assert pair_scans(alone) == ()


def test_official_optimiser():
    adam, schedule = method().optimiser("main", [nn.Linear(1, 1)])
    assert isinstance(adam, torch.optim.Adam)
    assert adam.defaults["lr"] == 1e-4
    assert adam.defaults["betas"] == (0.9, 0.999)
    assert adam.defaults["weight_decay"] == 0
    assert schedule(7, 10) == 1.0


# ---- from the command line's own functions: a whole run, and its landmarks in millimetres


def test_a_run_predicts_landmarks_in_millimetres(tmp_path, scans):
    """The points of a scan lie inside its box in the world, named by rank, beside a picture."""
    run, folder = scans
    made = predict(run, folder, tmp_path / "points", cache=tmp_path / "cache", quiet=True)
    saved = load_method(run)
    order = [f"landmark-{int(number) + 1:02d}" for number in saved.method.order]
    assert len(made.rows) == 5
    for row in made.rows:
        with (tmp_path / "points" / row["points"]).open(newline="") as file:
            found = list(csv.DictReader(file))
        assert [each["point"] for each in found] == order
        image = nibabel.load(folder / row["file"])
        voxels = np.array([[float(each[f"{axis} [mm]"]) for axis in "xyz"] for each in found])
        inside = nibabel.affines.apply_affine(np.linalg.inv(image.affine), voxels)
        assert (inside > -1).all()
        assert (inside < image.shape).all()
        assert (tmp_path / "points" / row["landmarks"]).is_file()


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """A short run on five blobs of 2 x 1 x 1.5 mm, off the origin."""
    folder = tmp_path_factory.mktemp("landmarks")
    rng = np.random.default_rng(0)
    affine = np.diag([2.0, 1.0, 1.5, 1.0])
    affine[:3, 3] = [-30.0, 12.0, 5.0]
    (folder / "scans").mkdir()
    for number in range(5):
        grid = np.stack(np.meshgrid(*[np.arange(12)] * 3, indexing="ij"), -1)
        level = np.exp(-((grid - rng.uniform(4, 8, 3)) ** 2).sum(-1) / 12)
        image = nibabel.Nifti1Image((1000 * level).astype(np.int16), affine)
        nibabel.save(image, folder / "scans" / f"p{number}.nii.gz")
    options = Options(
        patch_size=(12, 12, 12),
        landmarks=11,
        batch_size=2,
        steps=2,
        kept=2,
        ranking_batches=1,
        encoder="resenc-tiny",
    )
    pretrain(
        "shape-landmarks",
        folder / "scans",
        folder / "run",
        options=options,
        cache=folder / "cache",
        accelerator="cpu",
        quiet=True,
    )
    return folder / "run", folder / "scans"


# ---- that it learns

SMALL = {
    "encoder": "resenc-tiny",
    "spacing": (2.0, 2.0, 2.0),
    "patch_size": (16, 20, 12),  # lies inside nearly every scan, so that no border can be aligned
    "landmarks": 20,
    "batch_size": 8,
    "samples_per_scan": 4,
    "lr": 1e-3,
}


def learn(shared_data: Path, folder: Path, name: str, steps: int) -> tuple[dict[str, float], Path]:
    """Pretrain on the training scans of hippocampus MRI; give the held-out scores and the run."""
    scans = unpack(shared_data, folder, "train") / "images"
    done = pretrain(
        "shape-landmarks",
        scans,
        folder / name,
        options=Options(steps=steps, **SMALL),
        cache=folder / "cache",
        accelerator="cpu",
        quiet=True,
        held_out_batches=4,
    )
    return done.result.score, folder / name


def unpack(shared_data: Path, folder: Path, part: str) -> Path:
    place = folder / part
    if not place.exists():
        with zipfile.ZipFile(shared_data / "hippocampus-mri" / f"{part}.zip") as archive:
            archive.extractall(place)
    return place


def expert_points(run: Path, place: Path, cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """Give discovered points and the centres of both labels [mm], from the middle of each scan."""
    saved = load_method(run)
    index = index_scans(place / "images")
    records = saved.open_store(cache).prepare(index.sources, rule=saved.rule).records
    found, true = [], []
    for record in records:
        with torch.no_grad():
            patch = centre_patch(record, saved.method.patch)
            points = saved.method.voxels(saved.method.landmarks(patch[None])[0]).numpy()
        start = np.array(centre_start(record.space, saved.method.patch))
        middle = (np.array(record.space) - 1) / 2
        found.append(((points + start - middle) * record.spacing).ravel())
        labels = np.asarray(nibabel.load(place / "labels" / record.source.name).dataobj)
        centres = [np.argwhere(labels == one).mean(0) for one in (1, 2)]
        true.append((np.array(centres) - (np.array(labels.shape) - 1) / 2).ravel())
    return np.array(found), np.array(true)


def linear_error(run: Path, folder: Path, shared_data: Path) -> tuple[float, float]:
    """Fit a linear map (ridge) on training subjects; give its and the mean shape's error on test subjects [mm]."""
    parts = [
        expert_points(run, unpack(shared_data, folder, part), folder / "cache")
        for part in ("train", "test")
    ]
    (found, true), (found_test, true_test) = parts
    centre, mean = found.mean(0), true.mean(0)
    inner = (found - centre).T @ (found - centre)
    ridge = 0.01 * np.trace(inner) / len(inner) * np.eye(len(inner))
    weights = np.linalg.solve(inner + ridge, (found - centre).T @ (true - mean))
    mapped = mean + (found_test - centre) @ weights

    def error(guess: np.ndarray) -> float:
        return float(np.linalg.norm((guess - true_test).reshape(-1, 2, 3), axis=-1).mean())

    return error(mapped), error(np.broadcast_to(mean, true_test.shape))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_on_real_scans(shared_data: Path, tmp_path: Path, proof):
    """In 3D hippocampus MRI, points register held-out subjects and say where the anatomy lies."""
    scores, run = learn(shared_data, tmp_path, "run", STEPS)
    mapped, mean = linear_error(run, tmp_path, shared_data)
    ratio = scores["match"] / scores["unregistered"]
    proof(
        "shape-landmarks",
        data="hippocampus-mri",
        match_over_unregistered=ratio,
        landmark_spread=scores["spread"],
        nearest_landmarks=scores["nearest"],
        expert_error_mm=mapped,
        mean_shape_error_mm=mean,
    )
    assert ratio < 0.7
    assert scores["spread"] > 0.02
    assert scores["nearest"] > 0.1
    assert mapped < 0.9 * mean


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_fails_with_other_subjects_points(
    shared_data: Path, tmp_path: Path, monkeypatch, proof
):
    """With points that were found in other images, nothing can be registered: the bar is missed.

    Both images' points must be wrong: with those of the source alone, a network still learns to bring every source
    onto the mean anatomy, which registers well.
    """
    register = ShapeLandmarks.register

    def wrong(self, source, target):
        if not self.training:
            return register(self, source, target)
        others = torch.cat([source.roll(1, 0), target.roll(3, 0)])
        return self.warp(source, *self.landmarks(others).chunk(2))

    monkeypatch.setattr(ShapeLandmarks, "register", wrong)
    scores, _ = learn(shared_data, tmp_path, "broken", STEPS // 2)
    ratio = scores["match"] / scores["unregistered"]
    proof("shape-landmarks", data="hippocampus-mri", match_over_unregistered_other_points=ratio)
    assert ratio > 0.8
