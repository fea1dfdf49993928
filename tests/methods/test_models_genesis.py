"""Every must-have of Models Genesis, and that a small network learns to restore real scans."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hippocampi import hippocampi
from scipy import stats
from torch import nn

from unlabeled.errors import OptionError
from unlabeled.methods.models_genesis import (
    MOST_TISSUE,
    ModelsGenesis,
    Options,
    Sample,
    tissue_score,
)
from unlabeled.nn.encoders import build_encoder
from unlabeled.nn.unet import UNetEncoder
from unlabeled.rng import generator


@dataclass
class Held:
    """A record in memory: an image that is already under its intensity rule."""

    array: torch.Tensor
    modality: str = ""
    window: tuple[float, float] = (-1000.0, 1000.0)
    source: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(name="case.nii.gz"))

    @property
    def space(self) -> tuple[int, ...]:
        return tuple(self.array.shape[1:])

    @property
    def dims(self) -> int:
        return len(self.space)

    def patch(self, start, size) -> torch.Tensor:
        out = torch.zeros(len(self.array), *size)
        inner, outer = [slice(None)], [slice(None)]
        for at, edge, extent in zip(start, size, self.space, strict=True):
            inner.append(slice(max(at, 0), min(at + edge, extent)))
            outer.append(slice(max(-at, 0), max(-at, 0) + min(at + edge, extent) - max(at, 0)))
        out[tuple(outer)] = self.array[tuple(inner)]
        return out


def numbered(*space: int) -> Held:
    """A scan whose voxels all differ, in (0, 1)."""
    count = int(np.prod(space))
    return Held(
        ((torch.arange(count, dtype=torch.float64) + 1) / (count + 2)).float().reshape(1, *space)
    )


def method(*, dims: int = 3, width: int = 2, channels: int = 1, **options) -> ModelsGenesis:
    encoder = UNetEncoder(dims=dims, in_channels=channels, base_width=width)
    return ModelsGenesis(Options(**options), encoder)


def quiet(**changes) -> dict[str, float]:
    """Rates with every deformation off but those named."""
    rates = {"p_flip": 0.0, "p_shuffle": 0.0, "p_intensity": 0.0, "p_paint": 0.0}
    return rates | changes


SMALL = {"patch_size": (32, 32, 16), "shuffle_windows": 800}
BOTH = pytest.mark.parametrize("fidelity", ["clean", "official"])


def test_must_have_1_output_range_shape_and_parameter_count():
    full = ModelsGenesis(Options(), build_encoder("unet", dims=3))
    assert sum(each.numel() for each in full.parameters()) == 19_073_665
    small = method(width=4)
    deformed = torch.rand(2, 1, 32, 24, 16)
    restored = small.restore(deformed)
    assert restored.shape == deformed.shape
    assert 0 < restored.min() < restored.max() < 1


@BOTH
def test_must_have_2_without_deformations_input_is_target(fidelity):
    record = numbered(40, 36, 20)
    for p_flip in (0.0, 0.9):
        still = method(fidelity=fidelity, **SMALL, **quiet(p_flip=p_flip))
        for seed in range(10):
            sample = still.views(record, generator(seed))
            assert torch.equal(sample.deformed, sample.intact)
            assert sample.deformed.data_ptr() != sample.intact.data_ptr()


@BOTH
def test_must_have_3_intensity_branches(golden, fidelity):
    """In both modes: the published code's pairing is exact, as both coordinates of its curves are monotone."""
    arrays = np.load(golden / "models-genesis" / "bezier_nonlinear.npz")
    curve = method(fidelity=fidelity).curve
    for case, inverted in itertools.product(range(4), (False, True)):
        _, first, second, _ = (tuple(point) for point in arrays["control_points"][case].tolist())
        drawn = dataclasses.replace(
            curve.draw(generator(0)), first=first, second=second, inverted=inverted
        )
        expected = arrays["y_inverted" if inverted else "y_increasing"][case]
        mapped = drawn(torch.from_numpy(arrays["x"]))
        np.testing.assert_allclose(mapped.numpy(), expected, rtol=0, atol=1e-5)
        ends = drawn(torch.tensor([0.0, 1.0])).tolist()
        assert ends == ([1.0, 0.0] if inverted else [0.0, 1.0])
        steps = drawn(torch.linspace(0, 1, 500)).diff()
        assert ((steps <= 1e-6) if inverted else (steps >= -1e-6)).all()


def test_must_have_4_bezier_identity():
    drawn = dataclasses.replace(
        method().curve.draw(generator(0)), first=(0.5, 0.5), second=(0.5, 0.5), inverted=False
    )
    ramp = torch.linspace(0, 1, 4001)
    assert (drawn(ramp) - ramp).abs().max() < 1e-4


def painted(draws: int) -> list[torch.Tensor]:
    """Which voxels of the corner-to-centre patch were painted, in so many samples."""
    small = method(patch_size=(64, 64, 32), **quiet(p_paint=1.0))
    record = numbered(64, 64, 32)
    samples = (small.views(record, generator(seed, "paint")) for seed in range(draws))
    return [sample.deformed != sample.intact for sample in samples]


def test_must_have_5_one_kind_of_painting_a_sample():
    """Out-painting turns the whole border to noise, in-painting leaves all of it."""
    out = 0
    for where in painted(300):
        border = torch.cat([where[0, :3].flatten(), where[0, -3:].flatten()])
        assert border.all() or not border.any()
        assert where.float().mean() > 0.5 if border.all() else where.float().mean() < 0.11
        out += int(border.all())
    assert stats.binomtest(out, 300, 0.8).pvalue > 1e-3


def test_must_have_6_painted_fractions():
    """Mean in-painted fraction 0.056 and kept fraction 0.318: 1000 draws are in the transforms' own tests."""
    fractions = np.array([float(where.float().mean()) for where in painted(400)])
    outside = fractions > 0.4
    for seen, mean, spread in (
        (fractions[~outside], 0.056, 0.0212),
        (1 - fractions[outside], 0.318, 0.062),
    ):
        assert abs(seen.mean() - mean) < 4 * spread / len(seen) ** 0.5


def test_must_have_7_noise_is_uniform():
    small = method(patch_size=(64, 64, 32), **quiet(p_paint=1.0))
    record = Held(torch.full((1, 64, 64, 32), 2.0))
    for seed in range(12):
        noise = small.views(record, generator(seed)).deformed
        noise = noise[noise != 2.0].numpy()
        if len(noise):
            assert 0 <= noise.min() < noise.max() < 1
            assert stats.kstest(noise, "uniform").pvalue > 1e-4


@BOTH
def test_must_have_8_shuffling_invents_no_values(fidelity):
    small = method(fidelity=fidelity, **SMALL, **quiet(p_shuffle=1.0))
    for seed in range(5):
        deformed, intact = small.views(numbered(40, 40, 40), generator(seed))
        assert np.isin(deformed.numpy(), intact.numpy()).all()
        assert (deformed != intact).any()
        assert len(np.unique(deformed)) < intact.numel()


def test_must_have_9_loss_is_the_error_over_all_voxels(golden):
    arrays = np.load(golden / "models-genesis" / "unet3d_forward.npz")
    full = ModelsGenesis(
        Options(fidelity="official", patch_size=(16, 16, 16)), build_encoder("unet", dims=3)
    )
    names = [str(name) for name in arrays["parameter_names"]]
    for i, (name, weights) in enumerate(zip(names, full.parameters(), strict=True)):
        if "bn" not in name:
            amplitude = 1.0 if name.startswith("out_tr") else 0.05
            wave = amplitude * np.sin(0.37 * np.arange(weights.numel()) + 0.11 * i)
            weights.data = torch.from_numpy(wave.astype(np.float32)).reshape(weights.shape)
    image = torch.from_numpy(arrays["x"])
    for mode in (True, False):
        (update,) = full.train(mode).step(Sample(image, image))
        assert abs(float(update.loss.detach()) - float(arrays["mse_to_x"])) < 1e-5


def test_must_have_10_crop_filter(golden):
    arrays = np.load(golden / "models-genesis" / "lung_crop_filter.npz")
    scaled = ((torch.from_numpy(arrays["crop_hu"]).clamp(-1000, 1000) + 1000) / 2000)[:, None]
    level = (-150 + 1000) / 2000
    for image, score, accepted, output in zip(
        scaled, arrays["tissue_score"], arrays["accepted"], arrays["accepted_output"], strict=True
    ):
        ours = tissue_score(image[..., :34], level)
        assert abs(ours - float(score)) < 1e-6
        assert (ours <= MOST_TISSUE) == bool(accepted)
        if accepted:
            lung = method(content_filter="lung", **quiet())
            whole = Held(image[..., :32], "CT")
            np.testing.assert_allclose(lung.crop(whole, generator(0))[0], output, rtol=0, atol=1e-6)


def test_the_filter_prefers_lung():
    """Of a scan that is dense in one half, patches come from the other."""
    array = torch.zeros(1, 32, 32, 64)
    array[..., 32:] = 0.9
    record = Held(array, "CT")
    options = {"patch_size": (16, 16, 16)}
    for fidelity, content, lungs in [
        ("clean", "lung", True),
        ("official", "auto", True),
        ("clean", "auto", False),
        ("official", "none", False),
    ]:
        small = method(fidelity=fidelity, content_filter=content, **options)
        means = [float(small.crop(record, generator(seed)).mean()) for seed in range(30)]
        assert (max(means) <= 0.9 * MOST_TISSUE + 1e-6) == lungs, (fidelity, content)


def test_without_any_lung_the_best_patch_is_taken():
    array = torch.full((1, 16, 16, 40), 0.9)
    array[..., :8] = 0.0
    lung = method(patch_size=(16, 16, 16), content_filter="lung")
    assert float(lung.crop(Held(array, "CT"), generator(0)).mean()) == pytest.approx(0.45, abs=1e-5)


def test_the_filter_refuses_other_scans():
    for record in (Held(torch.rand(1, 64, 64, 32), "MR"), Held(torch.rand(1, 64, 64), "CT")):
        small = method(dims=record.dims, content_filter="lung")
        with pytest.raises(OptionError, match="Hounsfield") as fault:
            small.views(record, generator(0))
        assert "--content-filter none" in fault.value.remedy


@BOTH
def test_must_have_11_target_is_the_flipped_original(fidelity):
    record = numbered(32, 32, 16)
    small = method(fidelity=fidelity, **SMALL)
    originals = [
        torch.flip(record.array, axes)
        for count in range(4)
        for axes in itertools.combinations((1, 2, 3), count)
    ]
    for seed in range(20):
        intact = small.views(record, generator(seed)).intact
        assert any(torch.equal(intact, original) for original in originals)


def test_must_have_12_carried_weights_are_the_trained_ones():
    small = method(**SMALL, optimiser="adam", lr=1e-3)
    moved, _ = small.optimiser("main", [small])
    batch = torch.utils.data.default_collate([small.views(numbered(32, 32, 16), generator(0))] * 2)
    for update in small.step(batch):
        update.loss.backward()
        moved.step()
    carried = small.carries()
    assert set(carried) == {"encoder", "decoder"}
    task = method(**SMALL)
    task.encoder.load_state_dict(carried["encoder"].state_dict())
    kept = {n: v for n, v in carried["decoder"].state_dict().items() if not n.startswith("head.")}
    report = task.decoder.load_state_dict(kept, strict=False)
    assert sorted(report.missing_keys) == ["head.bias", "head.weight"]
    for name, value in small.encoder.state_dict().items():
        assert torch.equal(task.encoder.state_dict()[name], value), name
    for name in kept:
        assert torch.equal(task.decoder.state_dict()[name], small.decoder.state_dict()[name]), name


def test_must_have_13_official_flips_keep_the_depth_order():
    record = numbered(32, 32, 16)
    depth = {"official": 0, "clean": 0}
    for fidelity in depth:
        small = method(fidelity=fidelity, **SMALL, **quiet(p_flip=1.0))
        for seed in range(40):
            intact = small.views(record, generator(seed)).intact
            depth[fidelity] += int(bool((intact.diff(dim=-1) < 0).all()))
    assert depth["official"] == 0
    assert depth["clean"] > 5


@BOTH
def test_must_have_14_same_seed_same_patch(fidelity):
    small = method(fidelity=fidelity, **SMALL)
    record = numbered(40, 40, 24)
    first, again = (small.views(record, generator(7, "sample", 3)) for _ in range(2))
    other = small.views(record, generator(7, "sample", 4))
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first.deformed, other.deformed)
    assert not torch.equal(first.intact, other.intact)


@pytest.mark.parametrize("space", [(48, 40), (48, 40, 20)])
def test_pictures_and_slices(space):
    """Two edges on a volume take a slice; the default's third edge is left out."""
    flat = method(dims=2, patch_size=(32, 32, 16))
    deformed, intact = flat.views(numbered(*space), generator(0))
    assert deformed.shape == intact.shape == (1, 32, 32)
    batch = Sample(deformed[None].repeat(2, 1, 1, 1), intact[None].repeat(2, 1, 1, 1))
    (update,) = flat.step(batch)
    assert update.loss.isfinite()


def test_any_encoder_serves():
    for name, dims in [("resenc-tiny", 3), ("resnet18", 2)]:
        encoder = build_encoder(name, dims=dims, in_channels=2)
        small = ModelsGenesis(Options(patch_size=(32,) * dims), encoder)
        record = Held(torch.rand(2, *(36,) * dims))
        batch = torch.utils.data.default_collate(
            [small.views(record, generator(seed)) for seed in range(2)]
        )
        (update,) = small.step(batch)
        update.loss.backward()
        assert all(each.grad is not None for each in small.decoder.head.parameters())
        assert small.restore(batch.deformed).shape == batch.intact.shape


def test_official_evaluation_depends_on_companions():
    image, mate = torch.rand(2, 1, 1, 16, 16)
    for fidelity, depends in (("clean", False), ("official", True)):
        small = method(dims=2, patch_size=(16, 16), fidelity=fidelity).eval()
        with torch.no_grad():
            alone = small.restore(torch.cat([image, image]))[0]
            beside = small.restore(torch.cat([image, mate * 5]))[0]
        assert torch.allclose(alone, beside, atol=1e-6) != depends


def test_margin_keeps_off_the_borders():
    record = numbered(300, 280, 100)
    official = method(fidelity="official", **quiet())
    inside = record.array[:, 100:-100, 100:-100, 30:-30]
    for seed in range(20):
        assert np.isin(official.crop(record, generator(seed)).numpy(), inside.numpy()).all()
    short = method(fidelity="official", **SMALL)
    assert short.crop(numbered(40, 40, 20), generator(0)).min() > 0
    own = method(margin=(4, 4, 2), **SMALL)
    patch = own.crop(numbered(40, 40, 20), generator(0))
    assert torch.equal(patch, numbered(40, 40, 20).array[:, 4:36, 4:36, 2:18])


def test_small_scans_are_padded():
    patch = method(**SMALL).crop(numbered(20, 40, 40), generator(0))
    assert patch.shape == (1, 32, 32, 16)
    assert (patch[:, :6] == 0).all()


@pytest.mark.parametrize(
    ("options", "fact", "remedy"),
    [
        ({"optimiser": "adam"}, "--lr is 1.0", "--lr 0.001"),
        ({"patch_size": (32, 32)}, "2 edges", "--patch-size 32 32 32"),
        ({"patch_size": (32, 32, 20)}, "multiples of 8", "--patch-size 32 32 16"),
        ({"p_paint": 1.5}, "--p-paint is 1.5", "0 to 1"),
        ({"fidelity": "exact"}, "not one of clean, official", ""),
    ],
)
def test_wrong_options_are_named(options, fact, remedy):
    with pytest.raises(OptionError, match=fact) as fault:
        method(**options)
    assert remedy in fault.value.remedy


def test_margin_for_too_few_axes_is_named():
    with pytest.raises(OptionError, match="--margin has 2 values"):
        method(margin=(1, 1), **SMALL).crop(numbered(40, 40, 20), generator(0))


def test_official_optimiser():
    sgd, schedule = method().optimiser("main", [nn.Linear(1, 1)])
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.defaults["lr"] == 1.0
    assert sgd.defaults["momentum"] == 0.9
    assert sgd.defaults["weight_decay"] == 0
    assert [schedule(epoch, 10_000) for epoch in (0, 39.99, 40, 80)] == [1.0, 1.0, 0.5, 0.25]
    adam, _ = method(optimiser="adam", lr=1e-3).optimiser("main", [nn.Linear(1, 1)])
    assert isinstance(adam, torch.optim.Adam)


def test_score_by_hand():
    small = method(dims=2, patch_size=(8, 8))
    intact = torch.zeros(1, 1, 8, 8)
    intact[..., :4] = 1.0
    deformed = intact.clone()
    deformed[..., 0] = 0.5
    small.restore = lambda image: torch.full_like(image, 0.25)
    scores = {name: float(value) for name, value in small.score(Sample(deformed, intact)).items()}
    assert scores == pytest.approx(
        {
            "mse": (0.75**2 + 0.25**2) / 2,
            "mse_damaged": 0.75**2,
            "identity": 0.25 / 8,
            "variance": 0.25,
        }
    )
    untouched = small.score(Sample(intact, intact))
    assert float(untouched["mse_damaged"]) == 0


def test_preview_shows_the_task():
    small = method(dims=2, patch_size=(16, 16))
    batch = Sample(torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16))
    shown = small.preview(batch)
    assert list(shown) == ["deformed", "restored", "intact"]
    assert all(each.min() >= 0 and each.max() <= 1 for each in shown.values())


def learn(
    small: ModelsGenesis, records: list[Held], steps: int, *, batch_size: int, cut: bool = False
) -> dict[str, float]:
    """Train a narrow network and score it on eight held-out scans; with `cut`, targets are other samples'."""
    moved, _ = small.optimiser("main", [small])

    def batch(scans: list[Held], *place: int | str) -> Sample:
        rng = generator(0, *place)
        chosen = torch.randint(len(scans), (batch_size,), generator=rng).tolist()
        samples = [small.views(scans[number], rng) for number in chosen]
        return torch.utils.data.default_collate(samples)

    for step in range(steps):
        deformed, intact = batch(records[8:], "train", step)
        for update in small.step(Sample(deformed, intact.roll(1, 0) if cut else intact)):
            moved.zero_grad()
            update.loss.backward()
            moved.step()
    small.eval()
    with torch.no_grad():
        scores = [small.score(batch(records[:8], "held out", number)) for number in range(12)]
    return {name: float(np.mean([float(each[name]) for each in scores])) for name in scores[0]}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_small_scale_proof_on_real_scans(shared_data: Path, tmp_path: Path, proof):
    """On slices of hippocampus MRI, held-out error falls below the chance level; with others' targets it cannot.

    At the published rates noise hides half of the voxels, which no network restores exactly, so the bar is
    nearer to the chance level than with phantoms.
    """
    records = whole_scans(shared_data, tmp_path, 60)
    options = {"patch_size": (32, 32), "shuffle_windows": 300, "optimiser": "adam", "lr": 3e-3}
    scores, broken = (
        learn(seeded(dims=2, width=8, **options), records, steps, batch_size=8, cut=cut)
        for steps, cut in ((500, False), (250, True))
    )
    proof("models-genesis", data="hippocampus-mri slices", **scores, mse_cut=broken["mse"])
    assert scores["mse"] < 0.93 * scores["variance"]
    assert scores["mse_damaged"] < 0.93 * scores["variance"]
    assert scores["mse"] < 0.5 * scores["identity"]
    assert broken["mse"] > 0.97 * broken["variance"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_small_scale_proof_on_phantoms(proof):
    """In 3D, on ellipsoids of fixed layout: held-out error below 0.6 of the variance and 0.2 of the input's."""
    records = [phantom(seed) for seed in range(40)]
    options = {"patch_size": (32, 32, 16), "shuffle_windows": 1500, "optimiser": "adam"}
    scores = learn(seeded(width=8, lr=3e-3, **options), records, 210, batch_size=4)
    proof("models-genesis", data="phantom", **scores)
    assert scores["mse"] < 0.6 * scores["variance"]
    assert scores["mse"] < 0.2 * scores["identity"]


def seeded(**options) -> ModelsGenesis:
    torch.manual_seed(0)
    return method(**options)


def phantom(seed: int) -> Held:
    """A body with three organs: places and sizes vary, layout and intensities do not."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.linspace(-1, 1, edge) for edge in (40, 40, 20)], indexing="ij")
    shift = rng.uniform(-0.1, 0.1, 3)
    image = np.zeros((40, 40, 20), np.float32)
    for centre, radii, value in [
        ((0, 0, 0), (0.9, 0.8, 1.2), 0.3),
        ((-0.4, -0.3, 0), (0.3, 0.25, 0.6), 0.5),
        ((0.4, -0.3, 0), (0.3, 0.25, 0.6), 0.15),
        ((0, 0.4, 0), (0.35, 0.2, 0.8), 0.7),
    ]:
        sizes = np.array(radii) * rng.uniform(0.9, 1.1, 3)
        distance = sum(
            ((axis - middle - moved) / size) ** 2
            for axis, middle, moved, size in zip(axes, centre, shift, sizes, strict=True)
        )
        image[distance < 1] = value
    return Held(torch.from_numpy(image)[None])


def whole_scans(shared_data: Path, folder: Path, count: int) -> list[Held]:
    """Read whole volumes under the default rule, from the set's archive."""
    import nibabel

    records = []
    for path in sorted((hippocampi(shared_data, folder) / "images").iterdir())[:count]:
        image = np.asarray(nibabel.load(path).dataobj, np.float32)
        low, high = np.percentile(image[image > image.min()], [0.5, 99.5])
        scaled = np.clip((image - low) / (high - low), 0, 1)
        records.append(Held(torch.from_numpy(scaled)[None]))
    return records
