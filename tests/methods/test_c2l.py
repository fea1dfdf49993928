"""Every must-have of C2L, and that a network learns to tell real radiographs apart."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from radiographs import Narrow, radiographs

from unlabeled.errors import DataError, OptionError
from unlabeled.methods._base import parameters
from unlabeled.methods.c2l import GREY, ComparingToLearn, Options, Sample, unit
from unlabeled.nn.encoders import build_encoder
from unlabeled.rng import generator
from unlabeled.transforms.mixing import Mixing

BOTH = pytest.mark.parametrize("fidelity", ["clean", "official"])
SMALL = {"patch_size": (32, 32), "queue": 40, "features": 16, "hole_size": 6}


class Held:
    """A record in memory: an image that is already under its intensity rule."""

    def __init__(self, array: torch.Tensor, name: str = "chest.png") -> None:
        self.array, self.source = array, SimpleNamespace(name=name)

    @property
    def space(self) -> tuple[int, ...]:
        return tuple(self.array.shape[1:])

    def patch(self, start, size) -> torch.Tensor:
        where = [slice(at, at + edge) for at, edge in zip(start, size, strict=True)]
        patch = self.array[(slice(None), *where)]
        assert patch.shape[1:] == tuple(size), "a view looks beyond the radiograph"
        return patch.clone()


def method(seed: int = 0, encoder: str = "resenc-tiny", **options) -> ComparingToLearn:
    torch.manual_seed(seed)
    made = build_encoder(encoder, dims=2)
    return ComparingToLearn(Options(**{"encoder": encoder, **SMALL, **options}), made)


def batch(count: int = 6, seed: int = 0, edge: int = 32) -> Sample:
    rng = generator(seed)
    first, second = (torch.rand(count, 1, edge, edge, generator=rng) for _ in range(2))
    return Sample(first, second, torch.arange(count))


def run(small: ComparingToLearn, samples: Sample) -> float:
    """Do one step as the loop does; give the loss."""
    optimiser, _ = small.optimiser("main", [small])
    losses = []
    for update in small.step(samples):
        optimiser.zero_grad()
        update.loss.backward()
        optimiser.step()
        losses.append(float(update.loss.detach()))
    (loss,) = losses
    return loss


def published(golden, criterion: str):
    """The published step: its arrays, and a method in official mode with the same queue."""
    arrays = {
        name: torch.from_numpy(values)
        for name, values in np.load(golden / "c2l" / "step_loss.npz").items()
    }
    small = method(
        fidelity="official",
        criterion=criterion,
        features=16,
        queue=int(arrays["queue_size"]),
        eps=1e-7,
        temperature=float(arrays["temperature"]),
    )
    small.pairs.queue.rows.copy_(arrays["queue_before"])
    small.pairs.images.fill_(float(arrays["n_data"]))
    return arrays, small


@pytest.mark.parametrize("criterion", ["softmax", "nce"])
def test_must_have_1_losses_gradients_and_queue_of_the_published_step(golden, criterion):
    arrays, small = published(golden, criterion)
    query, mixed_query = (arrays[name].requires_grad_() for name in ("feat_q", "mixed_feat_q"))
    mix = Mixing(float(arrays["mix_lam"]), arrays["mix_index"])
    keys = [unit(arrays["feat_k"]), unit(arrays["mixed_feat_k"]), unit(mix(arrays["feat_k"]))]
    np.testing.assert_allclose(keys[2], unit(arrays["mixed_key_target"]), atol=1e-5)
    held = []
    push = small.pairs.queue.push
    small.pairs.queue.push = lambda rows: (push(rows), held.append(small.pairs.queue.rows.clone()))
    terms = small.pairs.compare([unit(query), unit(mixed_query), unit(mixed_query)], keys)
    for term, expected in zip(terms, arrays[f"{criterion}_losses"], strict=True):
        assert float(term.detach()) == pytest.approx(float(expected), abs=1e-4)
    loss = torch.stack(terms).mean()
    assert float(loss.detach()) == pytest.approx(float(arrays[f"{criterion}_total"]), abs=1e-4)
    loss.backward()
    for leaf, name in ((query, "feat_q"), (mixed_query, "mixed_feat_q")):
        np.testing.assert_allclose(leaf.grad, arrays[f"{criterion}_grad_{name}"], atol=1e-4)
    for call, rows in enumerate(held, start=1):
        np.testing.assert_allclose(rows, arrays[f"queue_after_call{call}"], rtol=0, atol=1e-5)
    assert int(small.pairs.queue.place) == int(arrays["queue_pointer_after"])
    if criterion == "nce":
        assert float(small.pairs.total) == pytest.approx(float(arrays["nce_Z"]), rel=1e-5)
        assert float(small.pairs.total).is_integer()


def test_the_loss_of_a_step_is_the_mean_of_its_three_terms():
    (update,) = method().step(batch())
    assert list(update.shows) == ["clean", "mixed", "mixed features"]
    torch.testing.assert_close(update.loss, torch.stack([*update.shows.values()]).mean())


def test_must_have_2_the_larger_part_stays(golden):
    """Given 0.2, the published code uses 0.8; its arrays are matched in the test of the transform."""
    torch.manual_seed(0)
    assert all(Mixing.draw(4).weight >= 0.5 for _ in range(200))


def test_must_have_3_views_and_features_are_mixed_alike():
    """Every input of the networks and the third key are blends with one weight and one permutation."""
    small, samples = method(), batch()
    seen: dict[str, list[torch.Tensor]] = {"encoder": [], "teacher": []}
    small.encoder.register_forward_pre_hook(lambda _, given: seen["encoder"].append(given[0]))
    small.teacher.register_forward_pre_hook(lambda _, given: seen["teacher"].append(given[0]))
    compared = []
    compare = small.pairs.compare
    small.pairs.compare = lambda queries, keys: (
        compared.append((queries, keys)),
        compare(queries, keys),
    )[1]
    torch.manual_seed(7)
    next(iter(small.step(samples)))
    torch.manual_seed(7)
    mix = Mixing.draw(len(samples.first))
    assert torch.equal(seen["encoder"][0], samples.first)
    assert torch.equal(seen["teacher"][0], samples.second)
    assert torch.equal(seen["encoder"][1], mix(samples.first))
    assert torch.equal(seen["teacher"][1], mix(samples.second))
    assert not torch.equal(mix(samples.first), samples.first)
    ((queries, keys),) = compared
    with torch.no_grad():
        torch.testing.assert_close(keys[2], unit(mix(small.teacher(samples.second))))
    assert queries[1] is queries[2]


def test_must_have_4_features_are_mixed_before_they_get_unit_length():
    mix = Mixing(0.7, torch.tensor([1, 0]))
    features = torch.tensor([[10.0, 0.0], [0.0, 1.0]])
    before, after = unit(mix(features)), unit(mix(unit(features)))
    assert not torch.allclose(before, after)
    small = method(features=2)
    small.teacher.forward = lambda views: features  # type: ignore[method-assign]
    compared = []
    small.pairs.compare = lambda queries, keys: (compared.extend(keys), [torch.ones(())] * 3)[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mixing, "draw", classmethod(lambda cls, *_: mix))
        next(iter(small.step(batch(2))))
    torch.testing.assert_close(compared[2], before)


def test_must_have_5_the_teacher_follows_after_the_step():
    """The update itself, and the copy with momentum 0, match the published arrays in the teacher's own tests."""
    small = method(momentum=0.9)
    before = [each.clone() for each in small.teacher.parameters()]
    run(small, batch())
    student = [*small.encoder.parameters(), *small.projector.parameters()]
    moved = 0
    for old, own, new in zip(before, student, small.teacher.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * own)
        moved += int(not torch.equal(old, new))
    assert moved > 10


def test_the_teacher_starts_as_a_copy_whatever_the_student_started_from():
    small = method()
    with torch.no_grad():
        for each in small.encoder.parameters():
            each.add_(1.0)  # as --init does after the networks are made
    (phase,) = small.phases()
    phase.before([1, 2, 3])
    assert all(
        torch.equal(own, copied)
        for own, copied in zip(
            [*small.encoder.parameters(), *small.projector.parameters()],
            small.teacher.parameters(),
            strict=True,
        )
    )
    assert float(small.pairs.images) == 3


def test_must_have_6_the_teacher_has_no_gradient_and_no_optimiser():
    small = method()
    run(small, batch())
    assert all(each.grad is None for each in small.teacher.parameters())
    moved = {id(each) for each in parameters([small])}
    assert not moved & {id(each) for each in small.teacher.parameters()}
    assert moved == {id(p) for part in (small.encoder, small.projector) for p in part.parameters()}


@BOTH
def test_must_have_7_the_queue_holds_unit_rows_and_wraps(fidelity):
    """18 keys a step do not divide 40."""
    small = method(fidelity=fidelity)
    for step in range(4):
        run(small, batch(seed=step))
        assert int(small.pairs.queue.place) == 18 * (step + 1) % 40
    torch.testing.assert_close(small.pairs.queue.rows.norm(dim=1), torch.ones(40))


@pytest.mark.parametrize(("fidelity", "own"), [("clean", [0, 0, 0]), ("official", [0, 6, 12])])
def test_must_have_8_no_key_of_the_batch_is_among_its_negatives(fidelity, own):
    """In official mode the second pair meets the keys of the first, the third those of both."""
    small, found, keys = method(fidelity=fidelity), [], []
    contrast = small.pairs.contrast

    def spy(query, key, queue):
        keys.append(key)
        same = (queue[:, None] - torch.cat(keys)).abs().amax(2) < 1e-6
        found.append(int(same.any(1).sum()))
        return contrast(query, key, queue)

    small.pairs.contrast = spy
    run(small, batch())
    assert found == own
    pushed = small.pairs.queue.rows[:18]
    torch.testing.assert_close(pushed, torch.cat(keys))


def test_official_contamination_costs_more(golden):
    """The third published loss is 10.96; without the batch's own keys among the negatives it is 7.95."""
    arrays, small = published(golden, "softmax")
    mix = Mixing(float(arrays["mix_lam"]), arrays["mix_index"])
    keys = [unit(arrays["feat_k"]), unit(arrays["mixed_feat_k"]), unit(mix(arrays["feat_k"]))]
    queries = [unit(arrays["feat_q"]), unit(arrays["mixed_feat_q"]), unit(arrays["mixed_feat_q"])]
    small.pairs.official = False
    clean = small.pairs.compare(queries, keys)
    assert float(clean[0]) == pytest.approx(float(arrays["softmax_losses"][0]), abs=1e-5)
    assert float(clean[2]) < float(arrays["softmax_losses"][2]) - 3


def test_must_have_9_holes_are_clipped_at_borders():
    """The published mask is matched in the test of the transform; here: holes reach views, and only as many."""
    small = method(patch_size=(64, 64), hole_size=20, holes=3, brightness=0.0, contrast=0.0)
    bright = Held(torch.full((1, 90, 90), 0.9))
    shares = []
    for seed in range(40):
        for view in small.views(bright, generator(seed))[:2]:
            hole = (view - GREY).abs() < 1e-6
            shares.append(float(hole.float().mean()))
            assert 0.02 < shares[-1] <= 3 * 400 / 4096
    assert min(shares) < 0.15 < max(shares)
    assert method(holes=0).views(bright, generator(0)).first.eq(GREY).sum() == 0


def test_must_have_10_the_learning_rate_falls_as_published(golden):
    arrays = np.load(golden / "c2l" / "lr_steps.npz")
    optimiser, schedule = method().optimiser("main", [torch.nn.Linear(1, 1)])
    assert isinstance(optimiser, torch.optim.SGD)
    assert optimiser.defaults["momentum"] == 0.9
    assert optimiser.defaults["weight_decay"] == 1e-4
    rates = [optimiser.defaults["lr"] * schedule(epoch - 1, 120) for epoch in arrays["epoch"]]
    np.testing.assert_allclose(rates, arrays["lr"], rtol=1e-6)
    assert [round(0.03 * schedule(e, 120), 7) for e in (59.9, 60, 80, 100)] == [
        0.03,
        3e-3,
        3e-4,
        3e-5,
    ]


def test_must_have_11_the_own_logit_is_the_scaled_product(golden):
    """Column 0 of the published logits; the loss is its distance from the row's log-sum."""
    arrays, _ = published(golden, "softmax")
    query, key = unit(arrays["feat_q"]), unit(arrays["feat_k"])
    own = (query * key).sum(1) / float(arrays["temperature"])
    np.testing.assert_allclose(own, arrays["softmax_out1"][:, 0], rtol=1e-5, atol=1e-5)
    loss = (arrays["softmax_out1"].logsumexp(1) - own).mean()
    assert float(loss) == pytest.approx(float(arrays["softmax_losses"][0]), abs=1e-5)


def test_must_have_12_knowing_nothing_costs_the_logarithm_of_the_choices():
    small = method(features=128, queue=2000, temperature=1.0)
    rng = generator(0)
    query, key = (unit(torch.randn(64, 128, generator=rng)) for _ in range(2))
    loss = small.pairs.contrast(query, key, small.pairs.queue.rows)
    assert float(loss) == pytest.approx(math.log(2001), abs=0.05)


def test_must_have_13_the_carried_encoder_is_the_students_trunk(tmp_path):
    from unlabeled.nn.weights import load_encoder
    from unlabeled.training.pretrain import write_encoder

    small = method(encoder="resnet18")
    run(small, batch())
    carried = small.carries()
    assert set(carried) == {"encoder"}
    assert carried["encoder"] is small.encoder
    folder = SimpleNamespace(encoder=tmp_path / "encoder.safetensors")
    record = SimpleNamespace(
        channels=1,
        affine=None,
        spacing=None,
        modality="CR",
        rule=small.intensity(small.options),
        key="a",
        subject="one",
        source=SimpleNamespace(name="chest.png"),
    )
    write_encoder(small, "c2l", small.options, [record], folder)
    again, metadata = load_encoder(folder.encoder)
    assert metadata["slug"] == "c2l"
    assert not [name for name in again.state_dict() if "linear" in name or "fc" in name]
    image = torch.rand(2, 1, 64, 64)
    small.eval()
    again.eval()
    for ours, theirs in zip(small.encoder(image), again(image), strict=True):
        assert torch.equal(ours, theirs)


def test_must_have_14_128_features_without_a_hidden_layer():
    plain = ComparingToLearn(Options(queue=8), build_encoder("resnet18", dims=2))
    assert (plain.projector.linear.in_features, plain.projector.linear.out_features) == (512, 128)
    assert plain.projector.hidden is None
    assert method(hidden=24).projector.hidden is not None
    assert plain.teacher(torch.rand(2, 1, 32, 32)).shape == (2, 128)


def test_the_first_rows_of_the_queue():
    clean, official = (
        method(fidelity=f, features=128, queue=500).pairs.queue.rows for f in ("clean", "official")
    )
    torch.testing.assert_close(clean.norm(dim=1), torch.ones(500))
    assert official.abs().max() <= (3 / 128) ** 0.5
    assert official.norm(dim=1).std() > 0.01
    assert float(official.norm(dim=1).mean()) == pytest.approx(1, abs=0.02)


@BOTH
def test_nce_fixes_its_total_at_the_first_step(fidelity):
    small = method(fidelity=fidelity, criterion="nce")
    small.begin([1, 2, 3, 4, 5])
    assert math.isfinite(run(small, batch()))
    first = float(small.pairs.total)
    assert first > 0
    assert first.is_integer() == (fidelity == "official")
    run(small, batch(seed=1))
    assert float(small.pairs.total) == first
    kept = method(fidelity=fidelity, criterion="nce")
    kept.load_state_dict(small.state_dict())
    assert float(kept.pairs.total) == first


def test_without_mixing_the_order_of_the_batch_does_not_matter():
    small, samples = method(mixing=0.001).eval(), batch(4)
    losses = []
    for each in (samples, Sample(*(part.flip(0) for part in samples))):
        torch.manual_seed(1)
        losses.append(float(next(iter(small.step(each))).loss.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_both_views_are_of_one_radiograph_and_differ():
    small = method(holes=0, brightness=0.0, contrast=0.0, degrees=0.0)
    where = torch.stack(torch.meshgrid(*[torch.linspace(0, 1, 100)] * 2, indexing="ij"))
    first, second, number = small.views(Held(where), generator(3))
    assert first.shape == second.shape == (2, 32, 32)
    assert not torch.equal(first, second)
    again = small.views(Held(where), generator(4))
    assert int(number) == int(again.radiograph)
    assert int(number) != int(small.views(Held(where, "other.png"), generator(3)).radiograph)


def test_views_of_a_picture_are_mirrored_left_to_right_and_of_a_slice_along_its_first_axis():
    steps = torch.linspace(0, 1, 64)
    still = {"holes": 0, "brightness": 0.0, "contrast": 0.0, "degrees": 0.0}
    small = method(p_flip=1.0, **still)
    columns = small.views(Held(steps.expand(1, 64, 64)), generator(0)).first
    assert (columns.diff(dim=2) < 0).all()
    rows = small.views(Held(steps[:, None].expand(1, 64, 64)), generator(0)).first
    assert (rows.diff(dim=1) > 0).all()
    volume = Held(steps[:, None, None].expand(1, 64, 64, 5))
    slices = small.views(volume, generator(0)).first
    assert slices.shape == (1, 32, 32)
    assert (slices.diff(dim=1) < 0).all()
    assert (method(p_flip=0.0, **still).views(volume, generator(0)).first.diff(dim=1) > 0).all()


def test_both_views_of_a_volume_show_the_same_slice():
    small = method(holes=0, brightness=0.0, contrast=0.0, degrees=0.0)
    volume = Held(torch.arange(9.0).div(9).expand(1, 40, 40, 9))
    seen = set()
    for seed in range(40):
        first, second, _ = small.views(volume, generator(seed))
        assert float(first.mean()) == pytest.approx(float(second.mean()), abs=1e-5)
        seen.add(round(float(first.mean()), 3))
    assert len(seen) == 9


def test_score_by_hand():
    """Two radiographs twice each: finding the other view of the same one counts."""
    small = method(features=2)
    small.student = lambda views: unit(views.mean((1, 3)))  # the two rows are the feature
    small.teacher.forward = lambda views: views.mean((1, 3))  # type: ignore[method-assign]
    right, up = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    first = torch.stack([right, right, up, up])[:, None, :, None]
    numbers = torch.tensor([5, 5, 8, 8])
    found = {
        name: float(value) for name, value in small.score(Sample(first, first, numbers)).items()
    }
    assert found == pytest.approx(
        {"retrieval": 1.0, "chance": 0.5, "interpolation": 1.0, "spread": 0.5**0.5}
    )
    swapped = small.score(Sample(first, first.flip(0), numbers))
    assert float(swapped["retrieval"]) == 0
    same = small.score(Sample(first * 0 + 1, first, numbers))
    assert float(same["spread"]) == 0


def test_preview_shows_what_the_features_take_for_the_other_view():
    small, samples = method(), batch(3)
    small.student = lambda views: torch.eye(3)
    small.teacher.forward = lambda views: torch.eye(3).roll(1, 0)  # type: ignore[method-assign]
    shown = small.preview(samples)
    assert list(shown) == ["view", "other view", "found as other view", "mixed with another"]
    assert torch.equal(shown["found as other view"], samples.second.roll(-1, 0))
    assert all(0 <= each.min() <= each.max() <= 1 for each in shown.values())


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"patch_size": (32,)}, "--patch-size has 1 edge"),
        ({"temperature": 0.0}, "--temperature is 0.0"),
        ({"mixing": 0.0}, "--mixing is 0.0"),
        ({"momentum": 1.5}, r"--momentum is 1\.5"),
        ({"queue": 0}, "--queue is 0"),
        ({"criterion": "triplet"}, "not one of softmax, nce"),
    ],
)
def test_wrong_options_are_named(options, fact):
    with pytest.raises(OptionError, match=fact) as fault:
        method(**options)
    assert fault.value.remedy


def test_a_single_radiograph_is_refused(tmp_path):
    from PIL import Image

    from unlabeled.training.pretrain import pretrain

    (tmp_path / "scans").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)).save(
        tmp_path / "scans" / "one.png"
    )
    with pytest.raises(DataError, match="2 subjects"):
        pretrain("c2l", tmp_path / "scans", tmp_path / "run", cache=tmp_path / "cache", quiet=True)


PROOF = {
    "patch_size": (32, 32),
    "batch_size": 32,
    "features": 64,
    "queue": 96,  # one step: with 139 radiographs a longer one holds earlier keys of the same ones
    "temperature": 0.1,
    "momentum": 0.9,
    "lr": 0.05,
    "least_area": 0.5,
    "degrees": 5.0,
    "brightness": 0.2,
    "contrast": 0.2,
    "hole_size": 4,
    "epochs": 10_000,
}


def learn(scans: Path, folder: Path, monkeypatch, **options) -> dict[str, float]:
    """Pretrain the narrow network; give its scores on held-out patients."""
    from unlabeled.training.pretrain import pretrain

    monkeypatch.setattr(
        "unlabeled.training.pretrain.build_encoder",
        lambda *_, in_channels, **__: Narrow(in_channels),
    )
    done = pretrain(
        "c2l",
        scans,
        folder,
        cache=scans.parent / "cache",
        accelerator="cpu",
        workers=0,
        quiet=True,
        held_out_batches=10,
        score_every=10_000,
        **PROOF | options,
    )
    return done.result.score


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_on_real_radiographs(shared_data, tmp_path, monkeypatch, proof):
    """Views of unseen patients' radiographs find their other views among those of 32: a small fraction, far above chance.

    A narrow network sees 32 x 32 pixels of 139 radiographs for a minute, so half of the published crops' range and of the
    jitter is all it can take.
    """
    scans = radiographs(shared_data, tmp_path)
    learnt = learn(scans, tmp_path / "run", monkeypatch, steps=240)
    start = learn(scans, tmp_path / "start", monkeypatch, steps=1, lr=1e-12)
    proof("c2l", data="chest-xray-longitudinal", untrained=start["retrieval"], **learnt)
    assert learnt["retrieval"] > 0.2
    assert learnt["retrieval"] > 2 * start["retrieval"]
    assert learnt["spread"] > 0.3


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_with_wrong_partners_nothing_is_learnt(shared_data, tmp_path, monkeypatch):
    """When the second view is of another radiograph, views cannot be found again."""
    step = ComparingToLearn.step
    monkeypatch.setattr(
        ComparingToLearn,
        "step",
        lambda self, seen: step(self, seen._replace(second=seen.second.roll(1, 0))),
    )
    scans = radiographs(shared_data, tmp_path)
    broken = learn(scans, tmp_path / "run", monkeypatch, steps=160)
    assert broken["retrieval"] < 0.15
