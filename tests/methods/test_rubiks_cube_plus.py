"""Every must-have of Rubik's cube+, and that a small network learns all three questions on real scans."""

from __future__ import annotations

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
from unlabeled.methods import rubiks_cube
from unlabeled.methods.rubiks_cube_plus import Options, RubiksCubePlus, Sample
from unlabeled.nn.encoders import build_encoder
from unlabeled.nn.weights import load_encoder, read_weights
from unlabeled.rng import generator
from unlabeled.training.pretrain import pretrain
from unlabeled.transforms.cubes import spread

SMALL = {"patch_size": (10, 6, 9), "gap": (4, 3, 2), "permutations": 12}
SPACE = (28, 18, 22)
STEPS = 250
QUICK = {
    **SMALL,
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


def noise(channels: int = 1, seed: int = 0) -> SimpleNamespace:
    """A scan whose voxels all differ and are never 0."""
    return held(0.01 + 0.98 * torch.rand(channels, *SPACE, generator=generator(seed)))


def method(channels: int = 1, encoder: str = "resenc-tiny", **options) -> RubiksCubePlus:
    torch.manual_seed(0)
    made = build_encoder(encoder, dims=3, in_channels=channels)
    return RubiksCubePlus(Options(**{**SMALL, "features": 8, "head_width": 16, **options}), made)


def plain(channels: int = 1, **options) -> rubiks_cube.RubiksCube:
    """The method without masks."""
    torch.manual_seed(0)
    made = build_encoder("resenc-tiny", dims=3, in_channels=channels)
    values = {**SMALL, "features": 8, "head_width": 16, **options}
    return rubiks_cube.RubiksCube(rubiks_cube.Options(**values), made)


def batch_of(small: RubiksCubePlus, count: int = 3, channels: int = 1) -> Sample:
    record = noise(channels)
    return default_collate([small.views(record, generator(seed)) for seed in range(count)])


def test_must_have_1_without_masks_it_is_rubiks_cube():
    """Samples bit for bit, the loss, and the gradients of all that both have."""
    weights = {"order_weight": 0.7, "rotation_weight": 0.4}
    here, there = method(p_mask=0.0, mask_weight=0.0, **weights), plain(**weights)
    for seed in range(20):
        mine, other = here.views(noise(), generator(seed)), there.views(noise(), generator(seed))
        assert all(torch.equal(a, b) for a, b in zip(mine[:4], other, strict=True))
        assert not mine.masked.any()
        assert mine.counts.all()
    batch = batch_of(here)
    (mine,), (other,) = here.step(batch), there.step(type(other)(*batch[:4]))
    assert torch.equal(mine.loss, other.loss)
    mine.loss.backward()
    other.loss.backward()
    shared = dict(here.named_parameters())
    for name, value in there.named_parameters():
        assert torch.equal(shared[name].grad, value.grad), name


@pytest.mark.parametrize(
    ("options", "fill"),
    [({}, -1.0), ({"fill": "zero"}, 0.0), ({"normalise": "scan"}, 0.0)],
)
def test_must_have_2_all_cubes_masked(options, fill):
    """Edges of 16 so that 45 to 55 % is far beyond chance."""
    small = method(p_mask=1.0, patch_size=(16, 16, 16), gap=(0,), **options)
    for seed in range(5):
        sample = small.views(held(0.01 + torch.rand(1, 32, 32, 32)), generator(seed))
        assert sample.masked.all()
        shares = (sample.cubes == fill).flatten(1).float().mean(1)
        assert (shares > 0.45).all()
        assert (shares < 0.55).all()


def test_must_have_3_golden_mask(golden: Path):
    arrays = np.load(golden / "rubiks-cube-plus" / "mask.npz")
    mask = method(fill="zero").mask
    rotated, keep = (torch.from_numpy(arrays[name]) for name in ("rotated", "keep"))
    masked = mask.choose(arrays["u"].tolist())
    np.testing.assert_array_equal(masked, arrays["mask_label"])
    assert keep[~masked].all()
    np.testing.assert_array_equal(mask.apply(rotated[:, None], keep > 0)[:, 0], arrays["masked"])


@pytest.mark.parametrize("fill", ["background", "zero"])
def test_must_have_3_and_4_what_stays_is_untouched(fill):
    small = method(fill=fill)
    seen = 0
    for seed in range(20):
        sample = small.views(noise(), generator(seed))
        whole = small.puzzle(noise(), generator(seed), jittered=True).cubes
        masked = sample.masked > 0
        assert torch.equal(sample.cubes[~masked], whole[~masked])
        kept = sample.cubes[masked] != small.mask.fill
        assert torch.equal(sample.cubes[masked][kept], whole[masked][kept])
        assert 0.3 < kept.float().mean() < 0.7
        seen += int(masked.sum())
    assert seen > 50


def test_must_have_5_frequencies():
    small = method(patch_size=(8, 6, 8))
    samples = [small.views(noise(), generator(seed)) for seed in range(1500)]
    masked = torch.stack([sample.masked for sample in samples])
    assert float(masked.mean()) == pytest.approx(0.5, abs=0.02)
    for count in masked.sum(0).long().tolist():  # slot by slot
        assert stats.binomtest(count, len(samples), 0.5).pvalue > 1e-4
    hidden = torch.cat([s.cubes[s.masked > 0] for s in samples[:100]]) == -1
    assert float(hidden.float().mean()) == pytest.approx(0.5, abs=0.01)


def test_must_have_6_bits_are_those_of_slots():
    small = method()
    for seed in range(20):
        sample = small.views(noise(), generator(seed))
        touched = (sample.cubes == -1).flatten(1).float().mean(1) > 0.1
        assert torch.equal(sample.masked > 0, touched)


def test_must_have_7_one_mask_for_all_channels():
    small = method(channels=3, p_mask=1.0, normalise="scan")
    cubes = small.views(noise(3), generator(0)).cubes
    hidden = cubes == 0
    assert hidden.any()
    assert torch.equal(hidden, hidden[:, :1].expand_as(hidden))


def test_no_two_cubes_or_samples_share_a_mask():
    small = method(p_mask=1.0)
    keeps = torch.cat([small.mask.draw(8, (6, 6, 6), generator(seed))[1] for seed in range(3)])
    assert len(keeps.flatten(1).unique(dim=0)) == 24


def test_must_have_8_four_heads_that_are_not_exported(tmp_path: Path):
    small = method(permutations=30)
    told = small.eval().answers(torch.rand(2, 8, 1, 10, 6, 9))
    shapes = {name: tuple(each.shape) for name, each in told.items()}
    assert shapes == {"order": (2, 30), "horizontal": (2, 8), "vertical": (2, 8), "masked": (2, 8)}
    assert list(small.carries()) == ["encoder"]


def test_the_mask_head_is_the_third_partys():
    full = RubiksCubePlus(Options(), build_encoder("unet", dims=3))
    layers = [each for each in full.heads.heads["masked"] if isinstance(each, nn.Linear)]
    assert [tuple(each.weight.shape) for each in layers] == [(1024, 512), (8, 1024)]


def given_answers(golden: Path) -> tuple[Sample, dict[str, torch.Tensor], dict[str, np.ndarray]]:
    """Labels and logits of the golden case; logits of the slots from its probabilities."""
    arrays = dict(np.load(golden / "rubiks-cube-plus" / "loss.npz"))
    bits = [torch.from_numpy(arrays[name]).float() for name in ("hor", "ver", "mask")]
    order = torch.from_numpy(arrays["order_label"]).long()
    batch = Sample(torch.empty(0), order, *bits, torch.ones_like(bits[0]))
    told = {"order": torch.from_numpy(arrays["order_logits"])}
    for name, short in (("horizontal", "hor"), ("vertical", "ver"), ("masked", "mask")):
        told[name] = torch.from_numpy(arrays[f"{short}_prob"]).logit()
    return batch, {name: each.requires_grad_() for name, each in told.items()}, arrays


def test_must_have_9_golden_losses_and_gradients(golden: Path):
    batch, told, arrays = given_answers(golden)
    small = method(permutations=100)
    small.answers = lambda cubes: told
    (update,) = small.step(batch)
    for name, expected in (("order", "order"), ("rotation", "rot"), ("mask", "mask")):
        value = float(update.shows[name].detach())
        assert value == pytest.approx(float(arrays[f"{expected}_loss"]), rel=1e-5)
    assert float(update.loss.detach()) == pytest.approx(float(arrays["loss"]), rel=1e-5)
    update.loss.backward()
    np.testing.assert_allclose(told["order"].grad, arrays["grad_order"], rtol=0, atol=1e-6)
    for name, short in (("horizontal", "hor"), ("vertical", "ver"), ("masked", "mask")):
        likely = arrays[f"{short}_prob"]
        by_logit = arrays[f"grad_{short}"] * likely * (1 - likely)  # the chain rule of the sigmoid
        np.testing.assert_allclose(told[name].grad, by_logit, rtol=0, atol=1e-6)


def two_slots(told_masked: torch.Tensor, counts: torch.Tensor) -> tuple[Sample, dict]:
    """A batch of one sample with two slots, the first of which is masked."""
    none = torch.zeros(1, 2)
    batch = Sample(torch.empty(0), torch.tensor([2]), none, none, torch.tensor([[1.0, 0.0]]), counts)  # fmt: skip
    told = {"order": torch.zeros(1, 4), "horizontal": none, "vertical": none}
    return batch, {**told, "masked": told_masked}


def test_must_have_9_by_hand():
    """ln 4, twice ln 2, and (0.105361 + 0.223144) / 2, each with its weight."""
    batch, told = two_slots(torch.tensor([[0.9, 0.2]]).logit(), torch.ones(1, 2))
    small = method(order_weight=2.0, rotation_weight=0.5, mask_weight=3.0)
    small.answers = lambda cubes: told
    (update,) = small.step(batch)
    assert float(update.shows["mask"]) == pytest.approx(0.164252, abs=1e-6)
    expected = 2 * math.log(4) + 0.5 * 2 * math.log(2) + 3 * 0.164252
    assert float(update.loss) == pytest.approx(expected, abs=1e-5)
    summed = method(rotation_reduction="sum").losses(told, batch)
    assert float(summed["mask"]) == pytest.approx(0.328504, abs=1e-6)


def test_must_have_10_yes_everywhere_is_not_free():
    batch, told = two_slots(torch.full((1, 2), 30.0), torch.ones(1, 2))
    assert float(method().losses(told, batch)["mask"]) > 10


def test_a_cube_of_nothing_but_background_has_no_answer():
    """Its mask cannot be seen: it neither counts in the loss nor in the score."""
    image = torch.rand(1, *SPACE) + 0.01
    image[:, : SPACE[0] // 2] = 0  # four of the eight cubes
    small = method(normalise="scan", p_mask=1.0)
    sample = small.views(held(image), generator(1))
    assert int(sample.counts.sum()) == 4
    assert torch.equal(sample.counts > 0, sample.cubes.flatten(1).any(1))
    told_masked = torch.tensor([[0.9, 0.2]]).logit()
    batch, told = two_slots(told_masked, torch.tensor([[1.0, 0.0]]))
    assert float(small.losses(told, batch)["mask"]) == pytest.approx(0.105361, abs=1e-6)
    batch, told = two_slots(told_masked, torch.zeros(1, 2))
    assert float(small.losses(told, batch)["mask"]) == 0


def test_must_have_11_everything_is_trained():
    small = method()
    moved, _ = small.optimiser("main", [small])
    assert isinstance(moved, torch.optim.Adam)
    inside = {id(each) for group in moved.param_groups for each in group["params"]}
    assert inside == {id(each) for each in small.parameters()}
    before = {name: value.clone() for name, value in small.heads.named_parameters()}
    (update,) = small.step(batch_of(small, 4))
    update.loss.backward()
    assert all(value.grad is not None for value in small.parameters())
    moved.step()
    for name, value in small.heads.named_parameters():
        assert not torch.equal(before[name], value), name


def test_must_have_12_the_encoder_alone_is_carried(tmp_path: Path):
    scans = write_blocks(tmp_path / "scans", 6)
    done = pretrain("rubiks-cube-plus", scans, tmp_path / "run", cache=tmp_path / "c", **QUICK)
    tensors, metadata = read_weights(done.encoder)
    encoder, _ = load_encoder(done.encoder)
    trained, _ = read_weights(tmp_path / "run" / "checkpoints" / "best.safetensors")
    for name, value in encoder.state_dict().items():
        assert torch.equal(trained[f"method.encoder.{name}"], value), name
    assert not [name for name in tensors if "head" in name or "projector" in name]
    assert metadata["patch_size"] == [10, 6, 9]
    other = plain().encoder  # the network of Rubik's cube takes it, name by name
    other.load_state_dict(encoder.state_dict())


def test_score_by_hand():
    small = method(permutations=4)
    masked = torch.zeros(2, 8)
    masked[:, :2] = 1
    counts = torch.ones(2, 8)
    counts[1, 4:] = 0
    none = torch.zeros(2, 8)
    batch = Sample(torch.empty(0), torch.tensor([0, 3]), none, none, masked, counts)
    order = torch.zeros(2, 4)
    order[:, 0] = 5
    no = torch.full((2, 8), -1.0)
    small.answers = lambda cubes: {"order": order, "horizontal": no, "vertical": no, "masked": no}
    scores = {name: float(value) for name, value in small.score(batch).items()}
    assert scores["order"] == 0.5
    assert scores["horizontal"] == scores["vertical"] == 1
    assert scores["masked"] == pytest.approx(8 / 12)
    assert scores["mask chance"] == 0.5
    assert scores["accuracy"] == pytest.approx((0.5 + 1 + 8 / 12) / 3)
    assert scores["chance"] == pytest.approx((1 / 4 + 2 / 3 + 1 / 2) / 3)


def test_preview_shows_what_a_right_answer_puts_back():
    small = method()
    batch = batch_of(small, 2)
    small.answers = lambda cubes: {
        "order": nn.functional.one_hot(batch.order, 12).float(),
        "horizontal": batch.horizontal - 0.5,
        "vertical": batch.vertical - 0.5,
        "masked": 60 * (batch.masked - 0.5),
    }
    shown = small.preview(batch)
    assert list(shown) == ["given", "said to be masked", "masked", "put back", "as it was"]
    assert all(0 <= each.min() <= each.max() <= 1 for each in shown.values())
    assert len({each.shape for each in shown.values()}) == 1
    assert torch.equal(shown["put back"], shown["as it was"])
    torch.testing.assert_close(shown["said to be masked"], shown["masked"])
    torch.testing.assert_close(shown["given"][0], spread((batch.cubes[0] + 1) / 2))
    assert not torch.equal(shown["given"], shown["as it was"])


SHOWN = ("order", "order chance", "horizontal", "vertical", "rotation chance", "masked", "mask chance")  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_on_real_scans(shared_data: Path, tmp_path: Path, proof):
    """On held-out hippocampus MRI: the order of corrupted cubes far above chance, and which are corrupted."""
    scores, seconds = learn_order("rubiks-cube-plus", SHOWN, shared_data, tmp_path, STEPS)
    proof("rubiks-cube-plus", data="hippocampus-mri", **scores, seconds=seconds)
    assert scores["order"] > 12 * scores["order chance"]
    assert scores["masked"] > 0.9


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_fails_with_answers_of_other_samples(
    shared_data: Path, tmp_path: Path, proof
):
    scores, _ = learn_order(
        "rubiks-cube-plus", SHOWN, shared_data, tmp_path, STEPS // 2, cut_signal=True
    )
    proof("rubiks-cube-plus", data="hippocampus-mri, answers astray", **scores)
    assert scores["order"] < 4 * scores["order chance"]
    assert scores["masked"] < 0.7


def test_scans_shorter_than_two_cubes_are_refused_before_training(tmp_path: Path):
    scans = write_blocks(tmp_path / "scans", 3)
    values = {**QUICK, "patch_size": (16, 16, 16)}
    with pytest.raises(DataError, match="none of 3 scans") as fault:
        pretrain("rubiks-cube-plus", scans, tmp_path / "run", cache=tmp_path / "cache", **values)
    assert "--patch-size 10 8 10" in fault.value.remedy
    assert not (tmp_path / "run" / "checkpoints" / "last.safetensors").exists()


def test_pictures_are_refused(tmp_path: Path):
    from unlabeled.demo.phantoms import write_patients

    scans = tmp_path / "scans"
    write_patients(scans, patients=3, shape=(40, 40))
    with pytest.raises(DataError, match="2D picture"):
        pretrain("rubiks-cube-plus", scans, tmp_path / "run", cache=tmp_path / "c", **QUICK)


@pytest.mark.parametrize(
    ("options", "fact", "remedy"),
    [
        ({"gap": (4, 3)}, "--gap has 2 numbers", "--gap 4"),
        ({"p_mask": 1.5}, "--p-mask is 1.5", "0 to 1"),
        ({"p_drop": -0.1}, "--p-drop is -0.1", "0 to 1"),
        ({"fill": "noise"}, "not one of background, zero", ""),
        (
            {"order_weight": 0.0, "rotation_weight": 0.0, "mask_weight": 0.0},
            "all weights",
            "--order-weight 1",
        ),
    ],
)
def test_wrong_options_are_named(options, fact, remedy):
    with pytest.raises(OptionError, match=fact) as fault:
        method(**options)
    assert remedy in fault.value.remedy


@pytest.mark.parametrize("encoder", ["unet", "resnet18"])
def test_any_encoder_serves(encoder: str):
    small = method(channels=2, encoder=encoder, patch_size=(16, 16, 16), gap=(2,))
    samples = [small.views(held(torch.rand(2, 36, 36, 36)), generator(seed)) for seed in range(2)]
    (update,) = small.step(default_collate(samples))
    update.loss.backward()
    assert update.loss.isfinite()
