"""Every must-have of VoidSeg's denoiser, and that a small network denoises real nuclei without a clean image."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import nn
from torch.utils.data import default_collate

from unlabeled.data.index import index_scans
from unlabeled.data.splits import take_fraction
from unlabeled.data.store import Store
from unlabeled.errors import OptionError
from unlabeled.methods import voidseg
from unlabeled.methods.voidseg import Options, Sample, VoidSeg
from unlabeled.nn.decoders import build_decoder
from unlabeled.nn.encoders import build_encoder
from unlabeled.rng import generator
from unlabeled.training.loader import held_out_batch, items_of, load, make_plan
from unlabeled.training.pretrain import open_store, pretrain
from unlabeled.transfer.predict import predict
from unlabeled.transfer.products import load_method
from unlabeled.transforms.masking import Blinded, BlindSpots

SMALL = {
    "encoder": "care-unet-tiny",
    "patch_size": (32, 32),
    "batch_size": 4,
    "samples_per_scan": 2,
}
QUICK = {"quiet": True, "accelerator": "cpu", "workers": 0}


def method(*, dims: int = 2, channels: int = 1, **options) -> VoidSeg:
    torch.manual_seed(0)
    options = {**SMALL, "patch_size": (32,) * dims, **options}
    encoder = build_encoder(options["encoder"], dims=dims, in_channels=channels)
    return VoidSeg(Options(**options), encoder)


def write(folder: Path, count: int = 4, space: tuple[int, ...] = (40, 44), offset: float = 500.0):
    """Write pictures (or volumes as npy) of a ramp and noise, in a unit of their own; give their intensities."""
    folder.mkdir(parents=True, exist_ok=True)
    images = {}
    for number in range(count):
        rng = np.random.default_rng(number)
        ramp = np.linspace(0, 900, space[0]).reshape(-1, *[1] * (len(space) - 1))
        images[f"s{number}"] = (offset + ramp + rng.normal(0, 90, space)).astype(np.float32)
        if len(space) == 2:
            tifffile.imwrite(folder / f"s{number}.tif", images[f"s{number}"])
        else:
            np.save(folder / f"s{number}.npy", images[f"s{number}"])
    return images


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    place = tmp_path_factory.mktemp("noisy")
    write(place / "scans")
    return (
        open_store(VoidSeg, Options(), place / "cache")
        .prepare(index_scans(place / "scans").sources, rule=VoidSeg.intensity(Options()))
        .records
    )


def batch_of(small: VoidSeg, records, *place) -> Sample:
    return default_collate([small.views(r, generator(0, *place, i)) for i, r in enumerate(records)])


def test_must_have_1_hidden_voxels_alone_enter_the_loss(golden, records):
    known = np.load(golden / "voidseg" / "n2v_loss.npz")
    guess, target, mask = (
        torch.from_numpy(part).moveaxis(-1, 1)
        for part in (known["prediction"], *np.split(known["target_and_mask"], 2, -1))
    )
    for error, name, value in [("squared", "mse", 0.05541917), ("absolute", "mae", 0.18244517)]:
        small = method(error=error)
        small.denoise = lambda image: guess
        (update,) = small.step(Sample(target, target, mask > 0))
        assert float(update.loss) == pytest.approx(float(known[name]), abs=1e-5)
        assert float(update.loss) == pytest.approx(value, abs=1e-5)
    small = method().eval()
    batch = batch_of(small, records)
    first = [float(update.loss.detach()) for update in small.step(batch)]
    plain = small.denoise
    small.denoise = lambda image: torch.where(batch.hidden, plain(image), 1e3)
    assert [float(update.loss.detach()) for update in small.step(batch)] == first


def test_must_have_2_the_input_is_the_patch_but_for_hidden_voxels(records):
    small = method(turns=False)
    for seed in range(20):
        blinded, noisy, hidden = small.views(records[0], generator(seed))
        assert torch.equal(blinded[~hidden], noisy[~hidden])
        assert (blinded[hidden] != noisy[hidden]).float().mean() > 0.7
        whole = records[0].patch((0, 0), records[0].space)
        rows, columns = ((whole == noisy[0, 0, 0]).nonzero()[0][1:]).tolist()
        assert torch.equal(noisy, whole[:, rows : rows + 32, columns : columns + 32])


def test_must_have_3_as_many_hidden_voxels_as_published(tmp_path):
    write(tmp_path / "scans", 1, (80, 80))
    (record,) = (
        Store(tmp_path / "cache")
        .prepare(index_scans(tmp_path / "scans").sources, rule=VoidSeg.intensity(Options()))
        .records
    )
    small = method(patch_size=(64, 64), turns=False)
    counts = []
    for seed in range(300):
        hidden = small.views(record, generator(seed)).hidden[0]
        counts.append(int(hidden.sum()))
        boxes = hidden.nonzero() // 11
        assert len(boxes.unique(dim=0)) == len(boxes)
    assert min(counts) >= 29
    assert max(counts) <= 36
    assert np.mean(counts) == pytest.approx(33.9, abs=0.4)


def test_must_have_4_replacements_come_from_the_window(records):
    """Counts of self-replacement and reach over many draws are in the transform's own tests."""
    small = method(turns=False)
    for seed in range(10):
        blinded, noisy, hidden = small.views(records[0], generator(seed))
        for row, column in hidden[0].nonzero().tolist():
            top, left = (min(max(at - 5, 0), 32 - 11) for at in (row, column))
            window = noisy[0, top : top + 11, left : left + 11]
            assert (window == blinded[0, row, column]).any()


def test_must_have_5_masks_differ_between_epochs_but_not_in_validation(records):
    small = method()
    (phase,) = small.phases()
    items = items_of(phase, records)
    plan = make_plan(phase, items, seed=0, per_scan=2)
    epochs = [
        next(load(phase, items, plan, epoch=epoch, step=0, steps=1, per_scan=2, workers=0))
        for epoch in range(2)
    ]
    assert not torch.equal(epochs[0].hidden, epochs[1].hidden)
    assert not torch.equal(epochs[0].noisy, epochs[1].noisy)
    first, again = (held_out_batch(phase, items, seed=0, number=0) for _ in range(2))
    assert all(map(torch.equal, first, again))


def test_must_have_9_all_but_the_head_is_carried_with_running_statistics(records):
    small = method()
    moved, _ = small.optimiser("main", [small])
    for step in range(3):
        for update in small.step(batch_of(small, records, step)):
            update.loss.backward()
            moved.step()
    carried = small.carries()
    encoder = build_encoder("care-unet-tiny", dims=2)
    decoder = build_decoder(encoder, out_channels=3)
    encoder.load_state_dict(carried["encoder"].state_dict())
    given = {n: t for n, t in carried["decoder"].state_dict().items() if not n.startswith("head.")}
    report = decoder.load_state_dict(given, strict=False)
    assert sorted(report.missing_keys) == ["head.bias", "head.weight"]
    statistics = [name for name in given if "running" in name]
    assert len(statistics) == 2 * 4
    for name in statistics:
        untouched = torch.zeros_like(given[name]) + ("var" in name)
        assert not torch.equal(given[name], untouched), name
        assert torch.equal(decoder.state_dict()[name], given[name])


def test_must_have_10_label_fractions(golden):
    known = np.load(golden / "voidseg" / "augment8_and_fraction.npz")
    subjects = [f"p{number}" for number in range(3800)]
    for percent, count in zip(known["fractions_percent"], known["count_of_3800"], strict=True):
        assert len(take_fraction(subjects, float(percent) / 100, 0)) == count
    assert 8 * len(take_fraction(subjects, 0.02, 0)) == 608


def test_must_have_12_test_images_are_seen_only_when_asked_for(tmp_path, monkeypatch):
    write(tmp_path / "scans", 6)
    splits = ["train", "train", "train", "val", "test", "test"]
    with (tmp_path / "scans.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "split"])
        rows.writerows([f"scans/s{number}.tif", split] for number, split in enumerate(splits))
    plain = VoidSeg.together
    for asked in (False, True):
        seen: set[str] = set()

        def together(self, records, rngs, seen=seen):
            seen.update(Path(record.source.name).stem for record in records)
            return plain(self, records, rngs)

        monkeypatch.setattr(VoidSeg, "together", together)
        options = {**SMALL, "steps": 8, "epochs": 4, "test_images": asked}
        done = pretrain(
            "voidseg", tmp_path / "scans.csv", tmp_path / f"run{asked}",
            cache=tmp_path / "cache", **QUICK, **options,
        )  # fmt: skip
        assert seen == {"s0", "s1", "s2", "s3"} | ({"s4", "s5"} if asked else set())
        assert any("--test-images" in note for note in done.loaded) == asked


def test_must_have_13_denoised_images_have_the_scans_unit(tmp_path):
    images = write(tmp_path / "scans")
    pretrain(
        "voidseg", tmp_path / "scans", tmp_path / "run", cache=tmp_path / "cache",
        steps=60, epochs=60, lr=3e-3, seed=1, **QUICK, **SMALL,
    )  # fmt: skip
    done = predict(
        tmp_path / "run", tmp_path / "scans", tmp_path / "out", cache=tmp_path / "cache", quiet=True
    )
    assert {row["file"] for row in done.rows} == {f"{name}.tif" for name in images}
    for name, image in images.items():
        denoised = tifffile.imread(tmp_path / "out" / f"{name}_denoised.tif")
        assert denoised.shape == image.shape
        assert denoised.mean() == pytest.approx(image.mean(), rel=0.1)
        assert np.polyfit(denoised.ravel(), image.ravel(), 1)[0] == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_product_is_what_the_network_says_of_the_whole_scan(tmp_path, channels, monkeypatch):
    """Tiles whose margin holds all that a voxel's answer looks at give what one piece gives."""
    rng = np.random.default_rng(0)
    image = rng.normal(300, 40, (channels, 101, 90)).astype(np.float32)
    for number, layer in enumerate(image):
        tifffile.imwrite(tmp_path / f"c{number}.tif", layer)
    (tmp_path / "scans.csv").write_text(
        "image\n" + ";".join(f"c{number}.tif" for number in range(channels)) + "\n"
    )
    sources = index_scans(tmp_path / "scans.csv").sources
    store = Store(tmp_path / "cache")
    (record,) = store.prepare(sources, rule=VoidSeg.intensity(Options())).records
    small = method(channels=channels).eval()
    with torch.no_grad():
        whole = small.product(record).images["denoised"]
        monkeypatch.setitem(voidseg.TILE, 2, (32, 24))
        tiled = small.product(record).images["denoised"]
    assert whole.shape == (channels, 101, 90)
    torch.testing.assert_close(whole, tiled, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(("dims", "space"), [(2, (40, 36, 6)), (3, (40, 36, 20))])
def test_volumes_and_their_slices(tmp_path, dims, space):
    write(tmp_path / "scans", 2, space)
    store = Store(tmp_path / "cache")
    sources = index_scans(tmp_path / "scans").sources
    held = store.prepare(sources, rule=VoidSeg.intensity(Options())).records
    small = method(dims=dims, patch_size=(32, 32, 16)[:dims])
    batch = batch_of(small, held)
    assert batch.noisy.shape == (2, 1, *(32, 32, 16)[:dims])
    (update,) = small.step(batch)
    assert update.loss.isfinite()
    with torch.no_grad():
        denoised = small.eval().product(held[0]).images["denoised"]
    assert denoised.shape == (1, *space)
    if dims == 2:
        slice_ = held[0].patch((0, 0, 3), (*space[:2], 1))[None, ..., 0]
        with torch.no_grad():
            alone = held[0].rescalings[0].undo(small.denoise(slice_))
        torch.testing.assert_close(denoised[..., 3], alone[0], rtol=1e-5, atol=1e-2)


def test_nothing_beyond_a_small_scan_is_asked_for(tmp_path):
    write(tmp_path / "scans", 1, (20, 50))
    sources = index_scans(tmp_path / "scans").sources
    (record,) = (
        Store(tmp_path / "cache").prepare(sources, rule=VoidSeg.intensity(Options())).records
    )
    turning, seen = method(), set()
    for seed in range(40):
        blinded, noisy, hidden = turning.views(record, generator(seed))
        scan = noisy[0] != 0
        seen.add(tuple(map(bool, (scan[0].any(), scan[:, 0].any()))))
        assert not hidden[0, ~scan].any()
        assert torch.isin(blinded[hidden], noisy[0, scan]).all()
    assert len(seen) == 2  # lying and standing
    small = method(turns=False)
    for seed in range(20):
        blinded, noisy, hidden = small.views(record, generator(seed))
        assert not hidden[:, :6].any()
        assert not hidden[:, 26:].any()
        assert hidden.any()
        assert (noisy[:, :6] == 0).all()
        inside = noisy[:, 6:26]
        assert torch.isin(blinded[hidden], inside).all()


@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize(
    ("shape", "patch"),
    [((50, 60), (32, 32)), ((20, 50), (32, 32)), ((50, 60), (32, 48)), ((40, 44, 9), (32, 32)), ((20, 30, 12), (24, 24, 16))],
)  # fmt: skip
def test_a_batch_made_together_is_bit_by_bit_that_of_single_views(tmp_path, shape, patch, turns):
    write(tmp_path / "scans", 4, shape)
    many = index_scans(tmp_path / "scans").sources
    kept = Store(tmp_path / "cache").prepare(many, rule=VoidSeg.intensity(Options())).records
    small = method(dims=len(patch), patch_size=patch, turns=turns)
    for seed in range(10):
        drawn = [[generator(seed, n) for n in range(len(kept))] for _ in "ab"]
        singly = default_collate([small.views(*one) for one in zip(kept, drawn[0], strict=True)])
        at_once = small.together(kept, drawn[1])
        assert all(map(torch.equal, at_once, singly))
        assert all(one.dtype == other.dtype for one, other in zip(at_once, singly, strict=True))
        assert at_once.hidden.any()
        states = [[rng.get_state().tolist() for rng in rngs] for rngs in drawn]
        assert states[0] == states[1]


def test_turns_move_all_three_parts_alike(records):
    turned, still = method(turns=True), method(turns=False)
    ways = set()
    for seed in range(40):
        blinded, noisy, hidden = turned.views(records[0], generator(seed))
        assert torch.equal(blinded[~hidden], noisy[~hidden])
        plain = still.views(records[0], generator(seed))
        assert torch.equal(noisy.flatten().sort().values, plain.noisy.flatten().sort().values)
        ways.add(torch.equal(noisy, plain.noisy))
    assert ways == {False, True}


def test_score_by_hand():
    small = method()
    noisy = torch.tensor([[[[1.0, 3.0], [9.0, 9.0]]]])
    blinded = torch.tensor([[[[2.0, 7.0], [9.0, 9.0]]]])
    hidden = torch.tensor([[[[True, True], [False, False]]]])
    small.denoise = lambda image: torch.full_like(image, 2.5)
    found = {
        name: float(value) for name, value in small.score(Sample(blinded, noisy, hidden)).items()
    }
    assert found == pytest.approx(
        {"mse": (1.5**2 + 0.5**2) / 2, "replacement": (1 + 16) / 2, "variance": 1.0}
    )
    nothing = small.score(Sample(blinded, noisy, torch.zeros_like(hidden)))
    assert all(float(value) == 0 for value in nothing.values())


def test_preview_shows_the_task(records):
    small = method().eval()
    shown = small.preview(batch_of(small, records))
    assert list(shown) == ["noisy", "hidden", "denoised", "removed"]
    assert all(each.min() >= 0 and each.max() <= 1 for each in shown.values())
    assert shown["noisy"].std() > 0.1


def test_any_encoder_serves(records):
    for name in ("resenc-tiny", "resnet18", "unet"):
        small = method(encoder=name)
        (update,) = small.step(batch_of(small, records))
        update.loss.backward()
        assert all(each.grad is not None for each in small.decoder.head.parameters())


def test_published_optimiser():
    adam, schedule = VoidSeg(
        Options(patch_size=(64, 64)), build_encoder("care-unet", dims=2)
    ).optimiser("main", [nn.Linear(1, 1)])
    assert type(adam) is torch.optim.Adam
    assert adam.defaults["lr"] == 4e-4
    assert adam.defaults["weight_decay"] == 0
    assert [schedule(epoch, 200) for epoch in (0, 49.9, 50, 100)] == [1.0, 1.0, 0.5, 0.25]


@pytest.mark.parametrize(
    ("options", "dims", "fact", "remedy"),
    [
        ({"patch_size": (32, 32)}, 3, "2 edges", "--patch-size 32 32 32"),
        ({"patch_size": (36, 32), "encoder": "unet"}, 2, "multiples of 8", "--patch-size 32 32"),
        ({"hidden_percent": 80.0}, 2, "--hidden-percent is 80.0", "0.01 to 50"),
        ({"error": "cubic"}, 2, "not one of squared, absolute", ""),
    ],
)
def test_wrong_options_are_named(options, dims, fact, remedy):
    with pytest.raises(OptionError, match=fact) as fault:
        method(dims=dims, **options)
    assert remedy in fault.value.remedy


def test_resampling_is_told_of(records):
    assert method().notes() == ()
    (note,) = method(spacing=(1.0, 1.0)).notes()
    assert "--spacing" in note


def test_the_whole_method_is_restored(tmp_path):
    write(tmp_path / "scans")
    pretrain(
        "voidseg", tmp_path / "scans", tmp_path / "run", cache=tmp_path / "cache",
        steps=2, epochs=1, **QUICK, **SMALL,
    )  # fmt: skip
    saved = load_method(tmp_path / "run")
    assert saved.rule == VoidSeg.intensity(Options())
    assert isinstance(saved.method, VoidSeg)


# ---- what a small network learns of real images


def write_nuclei(source: Path, folder: Path, part: str, sigma: float) -> dict[str, np.ndarray]:
    """Write fluorescence images with noise added [grey levels of 8 bits]; give the clean ones."""
    with (source / "images.csv").open(newline="") as file:
        kinds = {row["id"]: row["type"] for row in csv.DictReader(file)}
    rng = np.random.default_rng([int(sigma), len(part)])
    folder.mkdir(parents=True)
    clean = {}
    with zipfile.ZipFile(source / f"{part}.zip") as archive:
        for name in sorted(archive.namelist()):
            stem = Path(name).stem
            if name.startswith("images/") and kinds.get(stem) == "fluo":
                picture = Image.open(io.BytesIO(archive.read(name))).convert("L")
                clean[stem] = np.asarray(picture, np.float32)
                noise = rng.normal(0, sigma, clean[stem].shape).astype(np.float32)
                tifffile.imwrite(folder / f"{stem}.tif", clean[stem] + noise)
    return clean


def decibels(image: np.ndarray, clean: np.ndarray) -> float:
    """Peak signal-to-noise ratio of 8-bit images [dB]."""
    return float(10 * np.log10(255**2 / np.mean((image - clean) ** 2)))


def denoise_nuclei(shared_data: Path, place: Path, *, steps: int) -> dict[str, float]:
    """Learn from noisy training images alone; measure on test images, against what needs no learning."""
    source = shared_data / "nuclei"
    write_nuclei(source, place / "train", "train", 20.0)
    clean = write_nuclei(source, place / "test", "test", 20.0)
    done = pretrain(
        "voidseg", place / "train", place / "run", cache=place / "cache",
        encoder="care-unet-tiny", patch_size=(64, 64), batch_size=8, samples_per_scan=8, lr=1e-3,
        steps=steps, epochs=steps, held_out_batches=2, **QUICK,
    )  # fmt: skip
    predict(place / "run", place / "test", place / "out", cache=place / "cache", quiet=True)
    noisy = {stem: tifffile.imread(place / "test" / f"{stem}.tif") for stem in clean}
    made = {
        "noisy": noisy,
        "denoised": {
            stem: tifffile.imread(place / "out" / f"{stem}_denoised.tif") for stem in clean
        },
        "of_the_mean": {stem: image.mean() for stem, image in clean.items()},
        "gaussian": {stem: gaussian_filter(image, 1.5) for stem, image in noisy.items()},
    }
    return {
        **{
            f"psnr_{name}": float(np.mean([decibels(images[stem], clean[stem]) for stem in clean]))
            for name, images in made.items()
        },
        "loss": done.result.score["mse"],
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_on_nuclei(shared_data, tmp_path, proof):
    """Held-out nuclei gain decibels without any clean image; seen voxels are copied, and nothing is gained."""
    found = denoise_nuclei(shared_data, tmp_path / "blind", steps=300)
    with pytest.MonkeyPatch.context() as patch:
        blind = BlindSpots.__call__
        patch.setattr(
            BlindSpots,
            "__call__",
            lambda self, image, rng: Blinded(image.clone(), blind(self, image, rng).hidden),
        )
        seeing = denoise_nuclei(shared_data, tmp_path / "seeing", steps=300)
    proof(
        "voidseg",
        data="nuclei (fluorescence, noise of 20 grey levels)",
        **found,
        psnr_denoised_nothing_hidden=seeing["psnr_denoised"],
        loss_nothing_hidden=seeing["loss"],
    )
    assert found["psnr_denoised"] > found["psnr_noisy"] + 6
    assert found["psnr_denoised"] > found["psnr_of_the_mean"] + 5
    assert seeing["psnr_denoised"] < found["psnr_noisy"] + 4
    assert seeing["loss"] < 0.5 * found["loss"]
