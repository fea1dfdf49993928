"""Every must-have of Rubik's cube, and that a small network learns to order the cubes of real scans."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cube_proofs import held, learn_order, write_blocks
from scipy import stats
from torch import nn
from torch.utils.data import default_collate

from unlabeled.errors import DataError, OptionError
from unlabeled.methods.rubiks_cube import Options, RubiksCube
from unlabeled.nn.decoders import build_decoder
from unlabeled.nn.encoders import build_encoder
from unlabeled.nn.weights import load_encoder, read_weights
from unlabeled.rng import generator
from unlabeled.training.pretrain import pretrain
from unlabeled.transforms.cubes import Scrambled, spread
from unlabeled.transforms.puzzles import Cells, choose_permutations, cut, half_turn

SMALL = {"patch_size": (8, 6, 8), "gap": (4, 3, 2), "permutations": 12}
SEEN = {"patch_size": (10, 6, 9)}  # large enough for the network

STEPS = 200
QUICK = {
    **SMALL,
    **SEEN,
    "encoder": "resenc-tiny",
    "batch_size": 2,
    "steps": 4,
    "features": 8,
    "head_width": 16,
    "score_every": 1,
    "held_out_batches": 1,
    "accelerator": "cpu",
    "quiet": True,
}


def numbered(*space: int) -> SimpleNamespace:
    """A scan whose voxels all differ."""
    return held(torch.arange(float(math.prod(space))).view(1, *space))


def method(channels: int = 1, encoder: str = "resenc-tiny", **options) -> RubiksCube:
    torch.manual_seed(0)
    made = build_encoder(encoder, dims=3, in_channels=channels)
    return RubiksCube(Options(**{**SMALL, "features": 8, "head_width": 16, **options}), made)


def corners(cubes: torch.Tensor, space: tuple[int, ...]) -> np.ndarray:
    """Where each cube of a `numbered` scan was cut: its smallest number is at its first voxel."""
    return np.stack(np.unravel_index(cubes.flatten(1).amin(1).long().numpy(), space), 1)


def test_must_have_1_eight_equal_cubes_from_their_cells():
    space = (26, 19, 21)
    small = method(normalise="scan", p_rotate=0.0)
    cells = Cells((2, 2, 2), (24, 18, 20), (8, 6, 8))  # twice cube + gap, in the middle
    corner = np.array([1, 0, 0])
    assert cells.slack == (4, 3, 2)
    in_order = np.array(list(itertools.product(range(2), repeat=3))) * cells.edges
    seen = []
    for seed in range(60):
        cubes, order, _, _ = small.views(numbered(*space), generator(seed))
        assert cubes.shape == (8, 1, 8, 6, 8)
        back = cubes[np.argsort(small.puzzle.scramble.orders[order]).tolist()]
        seen.append(corners(back, space) - corner - in_order)
    offsets = np.stack(seen)
    assert offsets.min((0, 1)).tolist() == [0, 0, 0]
    assert offsets.max((0, 1)).tolist() == [4, 3, 2]
    small.eval()
    for seed in range(5):
        cubes, order, _, _ = small.views(numbered(*space), generator(seed))
        back = cubes[np.argsort(small.puzzle.scramble.orders[order]).tolist()]
        assert (corners(back, space) - corner - in_order == [2, 1, 1]).all()


def test_must_have_2_cubes_never_overlap_and_keep_the_gap():
    space = (26, 19, 21)
    for options, gaps in (
        ({"jitter": 0.0}, ([4], [3], [2])),
        ({"jitter": 0.5}, (range(2, 7), range(2, 5), range(1, 4))),
        ({}, (range(9), range(7), range(5))),
    ):
        small = method(normalise="scan", p_rotate=0.0, **options)
        for seed in range(40):
            cubes, order, _, _ = small.views(numbered(*space), generator(seed))
            assert len(cubes.unique()) == cubes.numel()
            back = cubes[np.argsort(small.puzzle.scramble.orders[order]).tolist()]
            starts = corners(back, space).reshape(2, 2, 2, 3)
            for axis, allowed in enumerate(gaps):
                between = np.diff(starts, axis=axis)[..., axis] - (8, 6, 8)[axis]
                assert np.isin(between, allowed).all()


def test_must_have_3_published_permutations(golden: Path):
    arrays = np.load(golden / "rubiks-cube" / "permutations.npz")
    for name, first in (
        ("k100_maxmean", (5, 7, 4, 0, 6, 1, 3, 2)),
        ("k1000_maxmean_a", (7, 1, 6, 3, 4, 5, 2, 0)),
        ("k1000_maxmean_b", (5, 0, 3, 4, 6, 2, 1, 7)),
    ):
        chosen = choose_permutations(8, len(arrays[name]), "max-mean", first)
        np.testing.assert_array_equal(chosen, arrays[name])
        assert len(np.unique(chosen, axis=0)) == len(chosen)
        assert (np.sort(chosen, 1) == np.arange(8)).all()
    ours = method(permutation_rule="max-mean", permutations=100).puzzle.scramble.orders
    np.testing.assert_array_equal(ours, arrays["k100_maxmean"])
    near = choose_permutations(8, 100, "max-min", (5, 7, 4, 0, 6, 1, 3, 2))
    np.testing.assert_array_equal(near, arrays["k100_maxmin_own"])


def test_must_have_4_hamming_distances():
    orders = method(permutations=100).puzzle.scramble.orders
    assert orders[0].tolist() == list(range(8))
    apart = (orders[:, None] != orders[None]).sum(-1)[np.triu_indices(100, 1)]
    assert np.bincount(apart).tolist() == [0] * 6 + [1472, 1735, 1743]


def test_must_have_5_every_order_is_drawn():
    small = method()
    record = numbered(24, 18, 20)
    drawn = [int(small.views(record, generator(seed)).order) for seed in range(1200)]
    counts = np.bincount(drawn, minlength=12)
    assert len(counts) == 12
    assert stats.chisquare(counts).pvalue > 1e-3


def test_must_have_6_half_turns():
    """The same as the two flips, itself undone, on cubes of unequal edges."""
    image = torch.rand(3, 8, 6, 4)
    for plane in ((1, 2), (0, 1)):
        turned = half_turn(image, plane, 3)
        assert torch.equal(turned, image.flip([axis + 1 for axis in plane]))
        assert torch.equal(half_turn(turned, plane, 3), image)
        assert turned.shape == image.shape


def test_must_have_7_bits_describe_slots():
    record, still = numbered(24, 18, 20), method(normalise="scan", jitter=0.0, p_rotate=0.0)
    original = still.puzzle.cutter(record)
    for seed in range(20):
        cubes, order, horizontal, vertical = still.views(record, generator(seed))
        assert torch.equal(cubes, original[still.puzzle.scramble.orders[order].tolist()])
        assert not horizontal.any()
        assert not vertical.any()
    turning = method(normalise="scan", jitter=0.0)
    for seed in range(20):
        cubes, order, horizontal, vertical = turning.views(record, generator(seed))
        assert not (horizontal * vertical).any()
        for slot, piece in enumerate(turning.puzzle.scramble.orders[order]):
            expected = original[piece]
            if horizontal[slot]:
                expected = expected.flip(2, 3)
            if vertical[slot]:
                expected = expected.flip(1, 2)
            assert torch.equal(cubes[slot], expected)


def test_one_cube_in_three_is_turned_in_each_way():
    small, record = method(), numbered(24, 18, 20)
    samples = [small.views(record, generator(seed)) for seed in range(300)]
    for bits in ("horizontal", "vertical"):
        count = int(sum(getattr(sample, bits).sum() for sample in samples))
        assert stats.binomtest(count, 2400, 1 / 3).pvalue > 1e-3


def test_golden_transform(golden: Path):
    arrays = np.load(golden / "rubiks-cube" / "transform.npz")
    small = method(
        patch_size=(8, 8, 6),
        gap=(6, 6, 4),
        permutations=100,
        permutation_rule="max-mean",
        normalise="scan",
    ).eval()
    volume = torch.from_numpy(arrays["volume"])[None]
    starts = Cells((2, 2, 2), (28, 28, 20), (8, 8, 6)).starts()
    np.testing.assert_array_equal(starts, arrays["cube_offsets"])
    cubes = small.puzzle.cutter(held(volume))
    assert torch.equal(cubes, cut(volume, starts, (8, 8, 6)))
    np.testing.assert_array_equal(cubes[:, 0], arrays["cubes"])
    disorder = small.puzzle.scramble.disorder(int(arrays["order_label"]), arrays["u"].tolist())
    np.testing.assert_array_equal(disorder.permutation, arrays["permutation"])
    np.testing.assert_array_equal(cubes[list(disorder.permutation)][:, 0], arrays["permuted"])
    np.testing.assert_array_equal(disorder(cubes)[:, 0], arrays["rotated"])
    np.testing.assert_array_equal(disorder.turned, np.stack([arrays["hor"], arrays["ver"]]))


def test_must_have_8_branches_share_their_weights():
    small = method().eval()
    cubes = torch.rand(2, 8, 1, 10, 6, 9)
    with torch.no_grad():
        features = small.heads.project(small.pooled(cubes))
        turned = small.heads.project(small.pooled(cubes.flip(1)))
    assert features.shape == (2, 8, 8)
    torch.testing.assert_close(features.flip(1), turned)
    assert not torch.allclose(features, turned)


def given_answers(golden: Path) -> tuple[Scrambled, dict[str, torch.Tensor], dict[str, np.ndarray]]:
    """Labels and logits of the golden case; logits of the rotation heads from its probabilities."""
    arrays = dict(np.load(golden / "rubiks-cube" / "loss.npz"))
    batch = Scrambled(
        torch.empty(0),
        torch.from_numpy(arrays["order_label"]).long(),
        torch.from_numpy(arrays["hor"]).float(),
        torch.from_numpy(arrays["ver"]).float(),
    )
    told = {
        "order": torch.from_numpy(arrays["order_logits"]),
        "horizontal": torch.from_numpy(arrays["hor_prob"]).logit(),
        "vertical": torch.from_numpy(arrays["ver_prob"]).logit(),
    }
    return batch, {name: each.requires_grad_() for name, each in told.items()}, arrays


def test_must_have_9_golden_losses_and_gradients(golden: Path):
    batch, told, arrays = given_answers(golden)
    small = method(permutations=100)
    small.answers = lambda cubes: told
    (update,) = small.step(batch)
    for name, expected in (("order", "order_loss"), ("rotation", "rot_loss_bce_mean")):
        assert float(update.shows[name].detach()) == pytest.approx(
            float(arrays[expected]), rel=1e-5
        )
    assert float(update.loss.detach()) == pytest.approx(float(arrays["loss"]), rel=1e-5)
    update.loss.backward()
    np.testing.assert_allclose(told["order"].grad, arrays["grad_order"], rtol=0, atol=1e-6)
    for name, short in (("horizontal", "hor"), ("vertical", "ver")):
        likely = arrays[f"{short}_prob"]
        by_logit = arrays[f"grad_{short}"] * likely * (1 - likely)  # the chain rule of the sigmoid
        np.testing.assert_allclose(told[name].grad, by_logit, rtol=0, atol=1e-6)
    summed = method(permutations=100, rotation_reduction="sum").losses(told, batch)
    assert float(summed["rotation"].detach()) == pytest.approx(float(arrays["rot_loss_bce_sum"]), rel=1e-5)  # fmt: skip


def test_must_have_9_by_hand():
    small = method()
    batch = Scrambled(
        torch.empty(0), torch.tensor([2]), torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2)
    )
    told = {
        "order": torch.zeros(1, 4),
        "horizontal": torch.tensor([[0.8, 0.3]]).logit(),
        "vertical": torch.zeros(1, 2),
    }
    small.answers = lambda cubes: told
    (update,) = small.step(batch)
    assert float(update.loss) == pytest.approx(1.184675, abs=1e-6)
    sure = {"order": torch.zeros(1, 4), **{n: torch.full((1, 2), 30.0) for n in ("horizontal", "vertical")}}  # fmt: skip
    assert float(small.losses(sure, batch)["rotation"]) > 40  # yes everywhere is not free


@pytest.mark.parametrize("count", [4, 100])
def test_must_have_10_knowing_nothing(count: int):
    batch = Scrambled(torch.empty(0), torch.tensor([3]), torch.ones(1, 8), torch.zeros(1, 8))
    told = {"order": torch.zeros(1, count), "horizontal": torch.zeros(1, 8), "vertical": torch.zeros(1, 8)}  # fmt: skip
    losses = method(permutations=count).losses(told, batch)
    assert float(losses["order"]) == pytest.approx(math.log(count))
    assert float(losses["rotation"]) == pytest.approx(2 * math.log(2))


def test_must_have_11_the_encoder_alone_is_carried(tmp_path: Path):
    scans = write_blocks(tmp_path / "scans", 6)
    done = pretrain("rubiks-cube", scans, tmp_path / "run", cache=tmp_path / "cache", **QUICK)
    tensors, metadata = read_weights(done.encoder)
    encoder, _ = load_encoder(done.encoder)
    trained, _ = read_weights(tmp_path / "run" / "checkpoints" / "best.safetensors")
    for name, value in encoder.state_dict().items():
        assert torch.equal(trained[f"method.encoder.{name}"], value), name
    assert not [name for name in tensors if "head" in name or "projector" in name]
    assert [name for name in trained if "projector" in name]
    assert metadata["patch_size"] == [10, 6, 9]


def test_must_have_12_cubes_lie_between_minus_one_and_one():
    record = held(torch.rand(2, 24, 18, 20) * torch.rand(2, 24, 18, 20) ** 3)
    record.patch((0, 0, 0), (24, 18, 20))[1, :12] = (
        0.25  # a channel without content in half of the cubes
    )
    cubes = method(channels=2).views(record, generator(0)).cubes
    assert cubes.isfinite().all()
    low, high = cubes.flatten(2).amin(2), cubes.flatten(2).amax(2)
    assert (low == -1).all()
    assert ((high == 1) | (high == -1)).all()
    assert (high == -1).sum() == 4
    plain = method(channels=2, normalise="scan").views(record, generator(0)).cubes
    assert 0 <= plain.min() < plain.max() < 1


def test_must_have_13_dense_upsampling_has_the_size_of_the_input():
    encoder = build_encoder("unet", dims=3).eval()
    decoder = build_decoder(encoder, out_channels=3, kind="duc")
    with torch.no_grad():
        assert decoder(encoder(torch.rand(1, 1, 16, 24, 8))).shape == (1, 3, 16, 24, 8)


def test_the_default_network_is_the_third_partys():
    """Encoder of 64 to 512 channels, 64 features a cube, hidden layers of 1024."""
    full = RubiksCube(Options(), build_encoder("unet", dims=3))
    shapes = {
        name: [tuple(layer.weight.shape) for layer in head if isinstance(layer, nn.Linear)]
        for name, head in full.heads.heads.items()
    }
    assert full.encoder.channels == (64, 128, 256, 512)
    assert full.heads.projector[0].weight.shape == (64, 512)
    assert shapes == {
        "order": [(1024, 512), (1024, 1024), (100, 1024)],
        "horizontal": [(1024, 512), (8, 1024)],
        "vertical": [(1024, 512), (8, 1024)],
    }


def test_every_head_is_trained():
    """One published variant trains the encoder alone, and its heads stay random."""
    small = method(**SEEN)
    moved, schedule = small.optimiser("main", [small])
    assert isinstance(moved, torch.optim.Adam)
    assert moved.defaults["lr"] == 1e-3
    assert moved.defaults["weight_decay"] == 1e-6
    assert [round(schedule(epoch, 1000), 6) for epoch in (0, 249.9, 250)] == [1.0, 1.0, 0.1]
    before = {name: value.clone() for name, value in small.heads.named_parameters()}
    samples = [small.views(numbered(24, 18, 20), generator(seed)) for seed in range(4)]
    (update,) = small.step(default_collate(samples))
    update.loss.backward()
    moved.step()
    assert all(value.grad is not None for value in small.parameters())
    for name, value in small.heads.named_parameters():
        assert not torch.equal(before[name], value), name


def test_weights_of_the_loss():
    small, record = method(**SEEN), numbered(24, 18, 20)
    batch = default_collate([small.views(record, generator(seed)) for seed in range(3)])
    told = small.eval().answers(batch.cubes)
    losses = {}
    for order, rotation in ((1.0, 0.0), (0.0, 1.0), (2.0, 3.0)):
        small = method(order_weight=order, rotation_weight=rotation)
        small.answers = lambda cubes: told
        losses[order, rotation] = float(next(iter(small.step(batch))).loss.detach())
    assert losses[2.0, 3.0] == pytest.approx(2 * losses[1.0, 0.0] + 3 * losses[0.0, 1.0], rel=1e-5)


def test_score_by_hand():
    small = method(permutations=4)
    turned = torch.zeros(2, 8)
    turned[0, :4] = 1
    batch = Scrambled(torch.rand(2, 8, 1, 8, 8, 8), torch.tensor([0, 3]), turned, torch.zeros(2, 8))
    logits = torch.zeros(2, 4)
    logits[:, 0] = 5
    small.answers = lambda cubes: {
        "order": logits,
        "horizontal": torch.full((2, 8), -1.0),
        "vertical": torch.full((2, 8), 1.0),
    }
    scores = {name: float(value) for name, value in small.score(batch).items()}
    assert scores["order"] == 0.5
    assert scores["order chance"] == 0.25
    assert scores["horizontal"] == 0.75
    assert scores["vertical"] == 0.0
    assert scores["rotation chance"] == pytest.approx(2 / 3)
    assert scores["accuracy"] == pytest.approx((0.5 + 0.375) / 2)
    assert scores["chance"] == pytest.approx((0.25 + 2 / 3) / 2)


def test_preview_shows_what_a_right_answer_puts_back():
    small = method(jitter=0.0, gap=(0,))
    record = held(torch.rand(1, 16, 12, 16))
    batch = default_collate([small.views(record, generator(seed)) for seed in range(2)])
    small.answers = lambda cubes: {
        "order": nn.functional.one_hot(batch.order, 12).float(),
        "horizontal": batch.horizontal - 0.5,
        "vertical": batch.vertical - 0.5,
    }
    shown = small.preview(batch)
    assert list(shown) == ["given", "put back", "as it was"]
    assert all(0 <= each.min() <= each.max() <= 1 for each in shown.values())
    assert torch.equal(shown["put back"], shown["as it was"])
    assert not torch.equal(shown["given"], shown["as it was"])
    original = small.puzzle.cutter(record)
    low, high = original.flatten(2).amin(2), original.flatten(2).amax(2)
    stretched = (original - low.view(8, 1, 1, 1, 1)) / (high - low).view(8, 1, 1, 1, 1)
    torch.testing.assert_close(shown["as it was"][0], spread(stretched))
    small.answers = lambda cubes: {
        "order": -nn.functional.one_hot(batch.order, 12).float(),
        "horizontal": 0.5 - batch.horizontal,
        "vertical": 0.5 - batch.vertical,
    }
    assert not torch.equal(small.preview(batch)["put back"], shown["as it was"])


def test_all_eight_cubes_are_seen_in_one_slice():
    cubes = torch.arange(1.0, 9.0).view(8, 1, 1, 1, 1).expand(8, 1, 2, 2, 2)
    slice_ = spread(cubes)[0, :, :, 1]
    lower, upper = slice_[:5], slice_[-5:]
    assert (lower[0, 0], lower[0, -1], lower[-1, 0], lower[-1, -1]) == (1, 3, 5, 7)
    assert (upper[0, 0], upper[0, -1], upper[-1, 0], upper[-1, -1]) == (2, 4, 6, 8)


SHOWN = ("order", "order chance", "horizontal", "vertical", "rotation chance")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_on_real_scans(shared_data: Path, tmp_path: Path, proof):
    """On held-out hippocampus MRI: the order of the cubes far above chance, turns above the commoner answer."""
    scores, seconds = learn_order("rubiks-cube", SHOWN, shared_data, tmp_path, STEPS)
    proof("rubiks-cube", data="hippocampus-mri", **scores, seconds=seconds)
    assert scores["order"] > 12 * scores["order chance"]
    for way in ("horizontal", "vertical"):
        assert scores[way] > scores["rotation chance"] + 0.08


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_fails_with_answers_of_other_samples(
    shared_data: Path, tmp_path: Path, proof
):
    scores, _ = learn_order(
        "rubiks-cube", SHOWN, shared_data, tmp_path, STEPS // 2, cut_signal=True
    )
    proof("rubiks-cube", data="hippocampus-mri, answers astray", **scores)
    assert scores["order"] < 4 * scores["order chance"]
    for way in ("horizontal", "vertical"):
        assert scores[way] < scores["rotation chance"] + 0.04


def test_scans_shorter_than_two_cubes_are_left_out_and_named(tmp_path: Path):
    scans = write_blocks(tmp_path / "scans", 4)
    write_blocks(scans, 2, (12, 16, 20))
    done = pretrain("rubiks-cube", scans, tmp_path / "run", cache=tmp_path / "cache", **QUICK)
    assert (done.scans, done.quarantined) == (4, 2)
    named = (tmp_path / "run" / "quarantine.csv").read_text()
    assert "12-0.nii.gz" in named
    assert "12-1.nii.gz" in named
    assert "has 12 x 16 x 20 voxels, and 2 x 2 x 2 pieces of 10 x 6 x 9 need 20 x 12 x 18" in named
    assert "--patch-size 6 6 9" in named


def test_scans_that_are_all_too_short_are_refused_before_training(tmp_path: Path):
    scans = write_blocks(tmp_path / "scans", 3)
    values = {**QUICK, "patch_size": (16, 16, 16)}
    with pytest.raises(DataError, match="none of 3 scans") as fault:
        pretrain("rubiks-cube", scans, tmp_path / "run", cache=tmp_path / "cache", **values)
    assert "--patch-size 10 8 10" in fault.value.remedy
    assert not (tmp_path / "run" / "checkpoints" / "last.safetensors").exists()


def test_pictures_are_refused(tmp_path: Path):
    from unlabeled.demo.phantoms import write_patients

    write_patients(tmp_path / "scans", patients=3, shape=(40, 40))
    values = {**QUICK, "patch_size": (8, 8, 8)}
    with pytest.raises(DataError, match="2D picture"):
        pretrain(
            "rubiks-cube", tmp_path / "scans", tmp_path / "run", cache=tmp_path / "c", **values
        )
    with pytest.raises(OptionError, match="3D"):
        pretrain("rubiks-cube", tmp_path / "scans", tmp_path / "r", cache=tmp_path / "c", dims=2, **values)  # fmt: skip


@pytest.mark.parametrize(
    ("options", "fact", "remedy"),
    [
        ({"gap": (4, 3)}, "--gap has 2 numbers", "--gap 4"),
        ({"gap": ()}, "--gap has 0 numbers", "--gap 10"),
        ({"permutations": 1}, "--permutations is 1", "2 to 40320"),
        ({"permutations": 40321}, "--permutations is 40321", "2 to 40320"),
        ({"order_weight": 0.0, "rotation_weight": 0.0}, "both weights", "--order-weight 0.5"),
        (
            {"encoder": "unet", "patch_size": (16, 16, 12)},
            "multiples of 8",
            "--patch-size 16 16 16",
        ),
        ({"normalise": "none"}, "not one of cube, scan", ""),
    ],
)
def test_wrong_options_are_named(options, fact, remedy):
    with pytest.raises(OptionError, match=fact) as fault:
        method(**options)
    assert remedy in fault.value.remedy


@pytest.mark.parametrize("encoder", ["unet", "resnet18", "vit-tiny"])
def test_any_encoder_serves(encoder: str):
    small = method(channels=2, encoder=encoder, patch_size=(16, 16, 16), gap=(2,))
    samples = [small.views(held(torch.rand(2, 36, 36, 36)), generator(seed)) for seed in range(2)]
    (update,) = small.step(default_collate(samples))
    update.loss.backward()
    assert update.loss.isfinite()
    assert all(p.grad is not None for p in small.heads.parameters())
