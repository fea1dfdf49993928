"""Every must-have of PCRL."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from radiographs import Narrow, radiographs
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from unlabeled.errors import DataError, OptionError
from unlabeled.methods._base import parameters
from unlabeled.methods._key_contrast import KeyContrast, unit
from unlabeled.methods.pcrl import GREY, SPREAD, Options, PreservationalLearning, Sample
from unlabeled.nn.encoders import build_encoder
from unlabeled.rng import generator
from unlabeled.transforms.mixing import Mixing
from unlabeled.transforms.turning import FlipTurn

DIMS = pytest.mark.parametrize("dims", [2, 3])
BOTH = pytest.mark.parametrize("fidelity", ["clean", "official"])
SMALL = {"queue": 40, "features": 16, "batch_size": 4, "shuffle_windows": 20, "hole_size": 4}


class Held:
    """A record in memory: an image that is already under its intensity rule."""

    def __init__(self, array: torch.Tensor, modality: str = "MR") -> None:
        self.array, self.modality = array, modality
        self.source, self.window = SimpleNamespace(name="scan"), (-1000.0, 1000.0)
        self.dims = array.ndim - 1

    @property
    def space(self) -> tuple[int, ...]:
        return tuple(self.array.shape[1:])

    def patch(self, start, size) -> torch.Tensor:
        where = [slice(at, at + edge) for at, edge in zip(start, size, strict=True)]
        patch = self.array[(slice(None), *where)]
        assert patch.shape[1:] == tuple(size), "a crop looks beyond the scan"
        return patch.clone()


def method(dims: int = 2, encoder: str = "resenc-tiny", **options) -> PreservationalLearning:
    torch.manual_seed(0)
    values = {"encoder": encoder, "patch_size": (16,) * dims, **SMALL, **options}
    return PreservationalLearning(Options(**values), build_encoder(encoder, dims=dims))


def batch(dims: int = 2, count: int = 4, seed: int = 0, edge: int = 16) -> Sample:
    rng = generator(seed)
    seen, clean = (torch.rand(count, 2, 1, *(edge,) * dims, generator=rng) for _ in range(2))
    turns = [[FlipTurn.draw((edge,) * dims, rng) for _ in range(2)] for _ in range(count)]
    turned = [
        torch.stack([t(x) for t, x in zip(*each, strict=True)])
        for each in zip(turns, seen, strict=True)
    ]
    codes = [torch.stack([turn.code for turn in each]) for each in turns]
    return Sample(seen, torch.stack(turned), clean, torch.stack(codes), torch.arange(count))


def run(small: PreservationalLearning, samples: Sample) -> float:
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


def first_loss(small: PreservationalLearning, samples: Sample, seed: int = 1) -> float:
    """Compute the loss of a step that is not done."""
    torch.manual_seed(seed)
    return float(next(iter(small.step(samples))).loss.detach())


def published(golden):
    """The published step: its arrays, and the contrast in official mode with the same queue."""
    arrays = {
        name: torch.from_numpy(values)
        for name, values in np.load(golden / "pcrl" / "step_loss.npz").items()
    }
    heat = float(arrays["temperature"])
    pairs = KeyContrast(Options(queue=32, features=16, temperature=heat, fidelity="official"))
    pairs.queue.rows.copy_(arrays["queue_before"])
    pairs.images.fill_(float(arrays["n_data"]))
    return arrays, pairs


def test_must_have_1_contrast_and_queue_of_the_published_step(golden):
    arrays, pairs = published(golden)
    query, mixed_query = (arrays[name].requires_grad_() for name in ("feat_q", "mixed_feat_q"))
    mix = Mixing(float(arrays["mix_lam"]), arrays["mix_index"])
    keys = [unit(arrays["feat_k"]), unit(arrays["mixed_feat_k"]), unit(mix(arrays["feat_k"]))]
    np.testing.assert_allclose(keys[2], unit(arrays["mixed_key_target"]), atol=1e-5)
    held, push = [], pairs.queue.push
    pairs.queue.push = lambda rows: (push(rows), held.append(pairs.queue.rows.clone()))
    terms = pairs.compare([unit(query), unit(mixed_query), unit(mixed_query)], keys)
    for number, (term, rows) in enumerate(zip(terms, held, strict=True), start=1):
        assert float(term.detach()) == pytest.approx(float(arrays[f"nce{number}"]), abs=1e-4)
        np.testing.assert_allclose(rows, arrays[f"queue_after_call{number}"], rtol=0, atol=1e-5)
    assert float(pairs.total) == int(arrays["Z"])
    loss = torch.stack(terms).mean()
    assert float(loss.detach()) == pytest.approx(float(arrays["contrastive_loss"]), abs=1e-4)
    loss.backward()
    for leaf, name in ((query, "feat_q"), (mixed_query, "mixed_feat_q")):
        np.testing.assert_allclose(leaf.grad, arrays[f"grad_{name}"], atol=1e-4)


def test_must_have_1_restoration_and_total_of_the_published_step(golden, monkeypatch):
    """The whole step in 3D, with networks that give back the published outputs."""
    arrays, pairs = published(golden)
    small = method(3, fidelity="official")
    small.pairs = pairs
    mix = Mixing(float(arrays["mix_lam"]), arrays["mix_index"])
    outputs = iter(["unet_out", "unet_out_alpha", "mixed_unet_out", "mixed_unet_out_alpha"])
    small.restore = lambda maps, space: arrays[next(outputs)]
    small.encoder.forward = lambda image: [image]
    small.gated = lambda maps, code: list(maps)
    queries = iter([arrays["feat_q"], arrays["mixed_feat_q"]])
    small.projector.forward = lambda maps: next(queries)
    keys = iter([arrays["feat_k"], arrays["mixed_feat_k"]])
    small.teacher.outputs = lambda image: [[image], next(keys)]
    alphas = iter([float(arrays["alpha1"]), float(arrays["alpha2"])])
    monkeypatch.setattr(Mixing, "draw", classmethod(lambda cls, *_: mix))
    monkeypatch.setattr("unlabeled.methods.pcrl.draw_weight", lambda _: next(alphas))
    errors, found = [], small.errors
    small.errors = lambda *given: (errors.extend(found(*given)), found(*given))[1]
    turned, clean = (
        torch.stack([arrays[f"{name}1"], arrays[f"{name}2"]], 1) for name in ("mask", "gt")
    )
    for name, crops in zip(("mixed_gt1", "mixed_gt2"), clean.unbind(1), strict=True):
        np.testing.assert_allclose(mix(crops), arrays[name], atol=1e-6)
    samples = Sample(turned, turned, clean, torch.zeros(6, 2, 7), torch.arange(6))
    update = next(iter(small.step(samples)))
    plain, alpha, mixed, mixed_alpha = errors
    ours = torch.stack([plain, mixed, alpha, mixed_alpha])
    np.testing.assert_allclose(ours, arrays["recon_terms"], atol=1e-5)
    assert float(update.shows["restoration"]) == pytest.approx(
        float(arrays["recon_loss"]), abs=1e-5
    )
    assert float(update.loss) == pytest.approx(float(arrays["total"]), abs=1e-4)


@pytest.mark.parametrize("what", ["volume", "image"])
def test_must_have_2_the_code_tells_what_was_done(golden, what):
    arrays = np.load(golden / "pcrl" / "transform_vector.npz")
    image = torch.from_numpy(arrays[what])
    for code, out in zip(arrays[f"{what}_code"], arrays[f"{what}_out"], strict=True):
        turn = FlipTurn.from_code(torch.from_numpy(code))
        assert torch.equal(turn(image), torch.from_numpy(out))
        assert turn.code.tolist() == code.tolist()


@DIMS
def test_must_have_2_and_3_of_views(dims):
    """The target is the view, flipped and turned as its code says, and one number of quarters is named."""
    small = method(dims)
    scan = Held(torch.rand(1, *(30,) * dims, generator=generator(0)))
    told = set()
    for seed in range(12):
        sample = small.views(scan, generator(seed))
        assert sample.code.shape == (2, dims + 4)
        for seen, turned, code in zip(sample.seen, sample.turned, sample.code, strict=True):
            assert torch.equal(FlipTurn.from_code(code)(seen), turned)
            assert sorted(code[-4:].tolist()) == [0.0, 0.0, 0.0, 1.0]
            told.add(tuple(code.tolist()))
        assert not torch.equal(sample.code[0], sample.code[1]) or seed
        assert not torch.equal(sample.seen[0], sample.clean[0])
    assert len(told) > 10


def test_must_have_4_the_gate(golden):
    arrays = {
        k: torch.from_numpy(v) for k, v in np.load(golden / "pcrl" / "attention_gate.npz").items()
    }
    layers = method(3, "unet").gate.layers
    with torch.no_grad():
        for layer, name in ((layers[0], "fc1"), (layers[2], "fc2")):
            layer.weight.copy_(arrays[f"{name}_w"])
            layer.bias.copy_(arrays[f"{name}_b"])
        gate = layers(arrays["code"])
    np.testing.assert_allclose(gate, arrays["gate"], atol=1e-5)
    assert gate.shape == (4, 512)
    assert ((gate > 0) & (gate < 1)).all()


def fill(modules: list[nn.Module], factor: float) -> None:
    """Give all parameters the published values, times a factor."""
    place = 0
    mask = np.uint64(0xFFFFFFFF)
    for module in modules:
        for part in module.modules():
            for value in part.parameters(recurse=False):
                k = np.arange(1, value.numel() + 1, dtype=np.uint64)
                h = ((k + np.uint64(7919 * place)) * np.uint64(2654435761)) & mask
                h = ((h ^ (h >> np.uint64(15))) * np.uint64(2246822519)) & mask
                u = (h ^ (h >> np.uint64(13))) / 2.0**32 - 0.5
                if value.ndim > 1:
                    u = u * math.sqrt(12) * math.sqrt(2 / (value.numel() / len(value)))
                elif isinstance(part, _BatchNorm) and value is part.weight:
                    u = np.ones_like(u)
                else:
                    u = 0.1 * u
                made = torch.from_numpy(factor * u).float().view(value.shape)
                value.data.copy_(made)
                place += 1


@torch.no_grad()
def test_must_have_5_forward_of_the_published_network(golden):
    arrays = {
        k: torch.from_numpy(v) for k, v in np.load(golden / "pcrl" / "model3d_forward.npz").items()
    }
    small = method(3, "unet", features=128, patch_size=(16, 16, 8)).eval()
    student = [small.encoder, small.projector, small.decoder, small.gate]
    fill(student, 1.0)
    fill([*small.teacher.copies], 0.9)
    named = np.load(golden / "pcrl" / "model3d_parameters.npz")["names_and_shapes"]
    ours = [each for part in student for each in part.parameters()]
    assert ["x".join(map(str, p.shape)) for p in ours] == [str(n).split(":")[1] for n in named]
    assert sum(p.numel() for p in ours) == 19_289_473
    own, (other, key) = small.encoder(arrays["x1"]), small.teacher.outputs(arrays["x2"])
    np.testing.assert_allclose(small.projector(own), arrays["feat_q"], atol=1e-3)
    np.testing.assert_allclose(key, arrays["feat_k"], atol=1e-3)
    gated = small.gated(own, arrays["code1"]), small.gated(other, arrays["code2"])
    for maps, suffix in ((gated, ""), ((own, other), "_mixup_pass")):
        alone, blend = small.contexts(*maps, float(arrays["alpha"]), (16, 16, 8))
        np.testing.assert_allclose(alone, arrays[f"out{suffix}"], atol=1e-3)
        np.testing.assert_allclose(blend, arrays[f"out_alpha{suffix}"], atol=1e-3)


def test_must_have_6_shares_are_the_larger_part():
    small = method()
    seen = []
    contexts = small.contexts
    small.contexts = lambda own, other, alpha, space: (
        seen.append(alpha),
        contexts(own, other, alpha, space),
    )[1]
    for seed in range(20):
        first_loss(small, batch(), seed)
        torch.manual_seed(seed)
        assert 0.5 <= Mixing.draw(4).weight <= 1
    assert len(set(seen)) == 40
    assert all(0.5 <= alpha <= 1 for alpha in seen)


@DIMS
@pytest.mark.parametrize(("view", "expected"), [(0, [True, True]), (1, [False, True])])
def test_must_have_7_codes_gate_their_own_view_and_no_mixed_pair(dims, view, expected):
    """The first view's code changes both contexts, the second's the blend alone, and none what is mixed."""
    rebuilt: list[list[torch.Tensor]] = []
    for bits in (0.0, 1.0):
        small, found = method(dims).eval(), []
        errors = small.errors
        small.errors = lambda out, *rest, e=errors, f=found: (f.extend(out), e(out, *rest))[1]
        samples = batch(dims)
        code = samples.code.clone()
        code[:, view] = bits
        first_loss(small, samples._replace(code=code))
        rebuilt.append(found)
    changed = [not torch.allclose(a, b, atol=1e-7) for a, b in zip(*rebuilt, strict=True)]
    assert changed == [*expected, False, False]


@DIMS
def test_must_have_8_with_alpha_1_both_contexts_are_one(dims):
    small = method(dims)
    samples = batch(dims)
    own, (other, _) = small.encoder(samples.seen[:, 0]), small.teacher.outputs(samples.seen[:, 1])
    space = (16,) * dims
    alone, blend = small.contexts(own, other, 1.0, space)
    assert torch.equal(alone, blend)
    assert not torch.allclose(*small.contexts(own, other, 0.7, space))


@BOTH
def test_must_have_9_the_teacher_follows_and_has_no_gradient(fidelity):
    small = method(fidelity=fidelity)
    student = [*small.encoder.parameters(), *small.projector.parameters()]

    def shift() -> None:
        with torch.no_grad():
            for each in student:
                each.add_(1.0)

    shift()  # as --init does after the networks are made
    (phase,) = small.phases()
    phase.before([1, 2, 3])
    followers = list(small.teacher.parameters())
    assert all(map(torch.equal, student, followers))
    shift()
    before = [each.clone() for each in followers]
    run(small, batch())
    for old, own, new in zip(before, student, followers, strict=True):
        torch.testing.assert_close(new - old, 0.001 * (own - old), atol=2e-6, rtol=1e-2)
        assert new.grad is None
    assert not {id(p) for p in parameters([small])} & {id(p) for p in followers}


def test_must_have_10_crops_overlap_by_a_quarter(golden):
    from unlabeled.data.sampling import overlap

    arrays = np.load(golden / "pcrl" / "crop_iou.npz")
    boxes = [arrays[name].reshape(-1, 3, 2) for name in ("box1", "box2")]
    (a, b), (c, d) = ((box[..., 0], box[..., 1] - box[..., 0]) for box in boxes)
    ours = overlap(a, b, c, d)
    np.testing.assert_allclose(ours.astype(np.float32), arrays["iou"], rtol=0, atol=1e-9)
    assert method(3).crops.least_overlap == float(arrays["threshold"])


def test_must_have_11_everything_is_mixed_alike():
    small, samples = method(), batch()
    x1, x2 = samples.seen.unbind(1)
    seen, keys, truths = [], [], []
    encoder, outputs, errors = small.encoder.forward, small.teacher.outputs, small.errors
    small.encoder.forward = lambda image: (seen.append(image), encoder(image))[1]
    small.teacher.outputs = lambda image: (seen.append(image), outputs(image))[1]
    small.errors = lambda out, truth, alpha: (truths.append(truth), errors(out, truth, alpha))[1]
    compare = small.pairs.compare
    small.pairs.compare = lambda q, k: (keys.extend(k), compare(q, k))[1]
    first_loss(small, samples, seed=7)
    torch.manual_seed(7)
    mix = Mixing.draw(4)
    assert not torch.equal(mix(x1), x1)
    for given, expected in zip(seen, (x1, x2, mix(x1), mix(x2)), strict=True):
        assert torch.equal(given, expected)
    assert all(map(torch.equal, truths[0], samples.turned.unbind(1)))
    assert all(map(torch.equal, truths[1], [mix(each) for each in samples.clean.unbind(1)]))
    torch.testing.assert_close(keys[2], unit(mix(outputs(x2)[1])))


def test_features_for_contrast_are_taken_before_the_gate():
    small, samples, compared = method(), batch(), []
    compare = small.pairs.compare
    small.pairs.compare = lambda q, k: (compared.extend(q), compare(q, k))[1]
    first_loss(small, samples)
    maps = small.encoder(samples.seen[:, 0])
    torch.testing.assert_close(compared[0], unit(small.projector(maps)))
    gated = small.gated(maps, samples.code[:, 0])
    assert not torch.allclose(compared[0], unit(small.projector(gated)), atol=1e-3)
    assert compared[1] is compared[2]


@pytest.mark.parametrize(("fidelity", "pushed"), [("clean", 4), ("official", 12)])
def test_must_have_12_the_queue_moves_on_and_holds_unit_rows(fidelity, pushed):
    """12 keys a step do not divide 40."""
    small = method(fidelity=fidelity)
    small.begin([1, 2, 3])
    for step in range(4):
        run(small, batch(seed=step))
        assert int(small.pairs.queue.place) == pushed * (step + 1) % 40
    torch.testing.assert_close(
        small.pairs.queue.rows[: min(40, 4 * pushed)].norm(dim=1), torch.ones(min(40, 4 * pushed))
    )


@pytest.mark.parametrize(("fidelity", "own"), [("clean", [0, 0, 0]), ("official", [0, 4, 8])])
def test_must_have_12_which_keys_of_the_batch_are_among_its_negatives(fidelity, own):
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
    kept = torch.cat(keys) if fidelity == "official" else keys[0]
    torch.testing.assert_close(small.pairs.queue.rows[: len(kept)], kept)


def test_must_have_13_targets_are_data_and_every_voxel_counts():
    small = method(3)
    rebuilt = torch.zeros(2, 1, 2, 2, 2, requires_grad=True)
    truth = torch.rand(2, 1, 2, 2, 2), torch.rand(2, 1, 2, 2, 2)
    alone, blended = small.errors((rebuilt, rebuilt), truth, 0.75)
    torch.testing.assert_close(alone, truth[0].square().mean())
    torch.testing.assert_close(blended, (0.75 * truth[0] + 0.25 * truth[1]).square().mean())
    alone.backward()
    assert (rebuilt.grad != 0).all()
    assert not truth[0].requires_grad


@DIMS
def test_must_have_14_one_implementation_for_both_dimensions(dims):
    small = method(dims)
    assert small.gate.layers[0].in_features == {2: 6, 3: 7}[dims]
    out = small.restore(small.encoder(torch.rand(2, 1, *(16,) * dims)), (16,) * dims)
    assert out.shape == (2, 1, *(16,) * dims)
    assert bool(((out > 0) & (out < 1)).all()) == (dims == 3)


def test_pictures_are_rebuilt_in_standardised_units():
    """The official code standardises pictures, so that its errors weigh twenty times as much beside the contrast."""
    small = method(2)
    image = torch.rand(1, 1, 4, 4)
    torch.testing.assert_close(small.target(image), (image - 0.449) / 0.226)
    small.restore = lambda maps, space: small.target(image)
    torch.testing.assert_close(small.shown([], image), image)
    assert (GREY, SPREAD) == (0.449, 0.226)
    flat = method(3)
    assert flat.target(image) is image


def test_must_have_15_what_is_carried_is_the_students():
    small = method()
    run(small, batch())
    carried = small.carries()
    assert carried == {"encoder": small.encoder, "decoder": small.decoder}
    teacher = list(small.teacher.copies[0].parameters())
    assert not all(map(torch.equal, small.encoder.parameters(), teacher))


@BOTH
def test_nce_knows_how_many_there_are(fidelity):
    """3 scans of 5 pairs each are 15 pairs, or 4 batches."""
    small = method(fidelity=fidelity, samples_per_scan=5)
    small.begin([1, 2, 3])
    assert float(small.pairs.images) == {"clean": 15, "official": 4}[fidelity]
    assert math.isfinite(run(small, batch()))
    total = float(small.pairs.total)
    assert total > 0
    assert total.is_integer() == (fidelity == "official")
    run(small, batch(seed=1))
    assert float(small.pairs.total) == total


def test_official_z_is_never_zero():
    pairs = KeyContrast(Options(queue=4, features=2, temperature=1.0, fidelity="official"))
    pairs.images.fill_(0.1)
    one = torch.eye(2)[:1]
    assert pairs.contrast(one, one, pairs.queue.rows).isfinite()
    assert float(pairs.total) == 1


@DIMS
def test_without_mixing_the_order_of_the_batch_does_not_matter(dims):
    small, samples = method(dims, mixing=0.001).eval(), batch(dims)
    torch.manual_seed(1)
    small.pairs.total.fill_(100.0)
    losses = [first_loss(small, each) for each in (samples, Sample(*(x.flip(0) for x in samples)))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@DIMS
def test_softmax_may_stand_in_for_nce(dims):
    assert math.isfinite(first_loss(method(dims, criterion="softmax"), batch(dims)))


def test_optimiser_and_schedule():
    optimiser, schedule = method().optimiser("main", [nn.Linear(1, 1)])
    assert isinstance(optimiser, torch.optim.SGD)
    assert (optimiser.defaults["lr"], optimiser.defaults["momentum"]) == (1e-3, 0.9)
    assert optimiser.defaults["weight_decay"] == 1e-4
    rates = [schedule(epoch, 240) for epoch in (0, 60, 120)]
    assert rates == pytest.approx([(1 + math.cos(math.pi * e / 240)) / 2 for e in (0, 60, 120)])


def test_two_views_of_a_volume_show_one_slice_in_2d():
    small = method(2, **dict.fromkeys(("degrees", "blur", "brightness", "contrast"), 0.0), holes=0)
    volume = Held(torch.arange(9.0).div(9).expand(1, 24, 24, 9))
    seen = set()
    for seed in range(30):
        sample = small.views(volume, generator(seed))
        assert float(sample.seen.std()) < 1e-5
        seen.add(round(float(sample.seen.mean()), 3))
    assert len(seen) == 9


@torch.no_grad()
def test_score_by_hand():
    """A decoder that obeys the code makes no error; with a wrong code it does; copying costs `identity`."""
    small = method(3).eval()
    samples = batch(3)
    small.encoder.forward = lambda image: [image]
    small.projector.forward = lambda maps: maps[0].flatten(1)
    small.teacher.forward = lambda image: image.flatten(1)
    small.gated = lambda maps, code: [
        torch.stack([FlipTurn.from_code(c)(x) for x, c in zip(maps[0], code, strict=True)])
    ]
    small.restore = lambda maps, space: maps[0]
    same = samples._replace(seen=samples.seen[:, :1].expand_as(samples.seen))
    found = {name: float(value) for name, value in small.score(same).items()}
    assert found["mse"] == 0
    assert found["mse_wrong_code"] > 0.1
    assert found["identity"] > 0
    assert found["variance"] == pytest.approx(1 / 12, abs=0.01)
    assert (found["retrieval"], found["chance"]) == (1.0, 0.25)
    half = Mixing.evenly(4)
    crops = half(same.seen[:, 0]) - half(same.clean[:, 0])
    assert found["mse_clean"] == pytest.approx(float(crops.square().mean()))


@DIMS
@torch.no_grad()
def test_preview_shows_both_tasks(dims):
    shown = method(dims).eval().preview(batch(dims, count=2))
    assert list(shown) == [
        "view",
        "flipped, turned",
        "made of the view",
        "two blended",
        "without distortion",
        "made of both",
    ]
    assert all(0 <= float(each.min()) <= float(each.max()) <= 1 for each in shown.values())


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"patch_size": (32,)}, "--patch-size has 1 edge"),
        ({"least_overlap": 1.0}, r"--least-overlap is 1\.0"),
        ({"temperature": 0.0}, "--temperature is 0.0"),
        ({"criterion": "triplet"}, "not one of softmax, nce"),
        ({"encoder": "unet", "patch_size": (30, 30)}, "multiples of 8"),
    ],
)
def test_wrong_options_are_named(options, fact):
    with pytest.raises(OptionError, match=fact) as fault:
        method(**options)
    assert fault.value.remedy


def test_a_single_scan_is_refused(tmp_path):
    from unlabeled.demo.phantoms import write_patients
    from unlabeled.training.pretrain import pretrain

    write_patients(tmp_path / "scans", patients=1, shape=(20, 20))
    with pytest.raises(DataError, match="2 subjects"):
        pretrain("pcrl", tmp_path / "scans", tmp_path / "run", cache=tmp_path / "cache", quiet=True)


PROOF = {
    "patch_size": (16, 16),
    "batch_size": 32,
    "samples_per_scan": 1,
    "features": 64,
    "criterion": "softmax",
    "queue": 128,
    "momentum": 0.9,
    "lr": 0.3,
    "least_area": 0.6,
    "degrees": 0.0,
    "blur": 0.1,
    "brightness": 0.1,
    "contrast": 0.1,
    "holes": 1,
    "hole_size": 2,
    "epochs": 10_000,
    "steps": 1000,
}


def learn(scans: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Pretrain the narrow network on small views; give its scores on held-out patients."""
    from unlabeled.training.pretrain import pretrain

    def narrow(*_: object, in_channels: int, **__: object) -> Narrow:
        return Narrow(in_channels)

    monkeypatch.setattr("unlabeled.training.pretrain.build_encoder", narrow)
    run = {"accelerator": "cpu", "workers": 0, "quiet": True}
    score = {"held_out_batches": 4, "score_every": 10_000}
    done = pretrain("pcrl", scans, folder, cache=folder / "cache", **run, **score, **PROOF)
    return done.result.score


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_on_real_radiographs(shared_data, tmp_path, monkeypatch, proof):
    """Unseen radiographs are found again by their other view, rebuilt without distortion, and laid as the code says.

    The last only begins after a thousand steps: a wrong code costs some percent, and without the gate nothing at all.
    """
    learnt = learn(radiographs(shared_data, tmp_path), tmp_path / "run", monkeypatch)
    proof("pcrl", data="chest-xray-longitudinal", **learnt)
    assert learnt["mse"] < 0.84 * learnt["variance"]
    assert learnt["mse_wrong_code"] > 1.01 * learnt["mse"]
    assert learnt["mse_clean"] < 0.25 * learnt["variance"]
    assert learnt["retrieval"] > 8 * learnt["chance"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_fails_without_gate_and_with_views_of_others(
    shared_data, tmp_path, monkeypatch, proof
):
    """Nothing then tells which of eight ways is meant, nor what two views of a radiograph share."""
    step = PreservationalLearning.step

    def astray(self: PreservationalLearning, batch: Sample):
        others = [torch.stack([x[:, 0], x[:, 1].roll(1, 0)], 1) for x in batch[:4]]
        return step(self, Sample(*others, batch.scan))

    monkeypatch.setattr(PreservationalLearning, "gated", lambda self, maps, code: list(maps))
    monkeypatch.setattr(PreservationalLearning, "step", astray)
    broken = learn(radiographs(shared_data, tmp_path), tmp_path / "run", monkeypatch)
    proof("pcrl", data="chest-xray-longitudinal, astray", **broken)
    assert broken["mse"] > 0.84 * broken["variance"]
    assert broken["mse_wrong_code"] == pytest.approx(broken["mse"])
    assert broken["retrieval"] < 6 * broken["chance"]
