"""Instances: four modes, thresholds, and masks that number objects, from training to prediction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from unlabeled.data.index import index_scans
from unlabeled.data.store import Store
from unlabeled.errors import OptionError, RunError
from unlabeled.nn.weights import read_weights
from unlabeled.rng import generator
from unlabeled.training.pretrain import pretrain
from unlabeled.transfer import instances
from unlabeled.transfer.cohort import draw_cohort
from unlabeled.transfer.finetune import finetune
from unlabeled.transfer.instances import THRESHOLDS, Instances
from unlabeled.transfer.predict import predict
from unlabeled.transfer.saved import load_task
from unlabeled.transfer.start import Start, build_task
from unlabeled.transfer.task import FinetuneOptions
from unlabeled.transforms.instances import number_objects, three_classes

QUICK = {"quiet": True, "accelerator": "cpu", "workers": 0}
MODES = ("baseline", "finetune", "sequential", "finetune-sequential")


def discs(seed: int, edge: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """Bright discs of several sizes in noise, two of them touching, and their numbers (far above 255)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:edge, :edge]
    numbers = np.zeros((edge, edge), np.uint16)
    for place, (row, column) in enumerate([(12, 12), (12, 24), (34, 14), (32, 36)], start=1):
        radius = rng.uniform(5, 6.9)
        inside = (rows - row - rng.uniform(-1, 1)) ** 2 + (columns - column) ** 2 < radius**2
        numbers[inside & (numbers == 0)] = 300 * place
    image = 40 + 100 * (numbers > 0) + rng.normal(0, 25, numbers.shape)
    return image.astype(np.float32), numbers


def write_discs(root: Path, count: int = 10) -> Path:
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    for seed in range(count):
        image, numbers = discs(seed)
        tifffile.imwrite(root / "images" / f"d{seed}.tif", image)
        Image.fromarray(numbers).save(root / "labels" / f"d{seed}.png")
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Labelled discs, and a denoiser that has seen them for a moment."""
    root = tmp_path_factory.mktemp("instances")
    write_discs(root / "discs")
    pretrain(
        "voidseg", root / "discs" / "images", root / "denoiser", cache=root / "cache",
        encoder="care-unet-tiny", patch_size=(32, 32), batch_size=4, lr=3e-3,
        steps=4, epochs=2, held_out_batches=0, **QUICK,
    )  # fmt: skip
    return root


def built(
    place: Path, mode: str | None, init: str | None = None, **options
) -> tuple[Instances, ...]:
    """Build a task as training would start it; give its notes and the report of loading as well."""
    index = index_scans(place / "discs", labelled=True)
    start = Start.read(init or place / "denoiser")
    store = Store(place / "cache")
    records = store.prepare(index.sources, rule=start.rule).records
    given = FinetuneOptions(
        encoder="care-unet-tiny", patch_size=(32, 32), mode=mode, dims=2, **options
    )
    return build_task("instances", records, draw_cohort(records, given), index, start, given)


def carried(place: Path) -> dict[str, torch.Tensor]:
    return read_weights(place / "denoiser" / "encoder.safetensors")[0]


@pytest.mark.parametrize("mode", [None, "finetune", "finetune-sequential"])
def test_must_have_9_all_tensors_but_the_head_are_the_denoisers(place: Path, mode) -> None:
    """Running statistics of batch normalisation included."""
    task, notes, report = built(place, mode)
    own = {n: t for n, t in task.state_dict().items() if n.startswith(("encoder.", "decoder."))}
    for name, tensor in carried(place).items():
        if name.startswith("decoder.head."):
            assert own[name].shape[0] == 3
        else:
            assert torch.equal(own[name], tensor), name
    assert {name for name in own if "running" in name} <= carried(place).keys()
    assert report.missing == ()
    assert task.loaded == {name for name in carried(place) if not name.startswith("decoder.head.")}
    assert any(note.startswith("decoder: ") for note in notes)
    assert all(p.requires_grad for n, p in task.named_parameters() if not n.startswith("denoiser"))


@pytest.mark.parametrize("mode", ["baseline", "sequential"])
def test_other_modes_start_with_fresh_weights(place: Path, mode: str) -> None:
    task, _, report = built(place, mode)
    assert report is None
    assert task.loaded == frozenset()
    scratch, _, _ = built(place, None, init="scratch")
    for part in ("encoder", "decoder"):
        theirs = getattr(scratch, part).state_dict()
        for name, tensor in getattr(task, part).state_dict().items():
            assert torch.equal(tensor, theirs[name]) or (part, mode) == ("decoder", "sequential")


@pytest.mark.parametrize("mode", MODES)
def test_must_have_11_the_mode_says_what_the_network_sees(place: Path, mode: str) -> None:
    """Sequential modes see what the denoiser makes of the scans, standardised; the rest of the task is the same."""
    task, _, _ = built(place, mode)
    task.eval()
    seen = []
    task.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    image = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        assert task(image).shape == (2, 3, 32, 32)
    assert torch.equal(seen[0], image) != mode.endswith("sequential")
    if task.denoiser is None:
        return
    assert torch.equal(seen[0], task.denoiser(image))
    for name, tensor in carried(place).items():
        assert torch.equal(task.denoiser.state_dict()[name], tensor), name
    assert not any(parameter.requires_grad for parameter in task.denoiser.parameters())
    assert not any(part.training for part in task.train().denoiser.modules())


def test_denoised_training_scans_are_standardised(place: Path) -> None:
    task, _, _ = built(place, "sequential", label_fraction=3.0)
    index = index_scans(place / "discs", labelled=True)
    records = (
        Store(place / "cache")
        .prepare(index.sources, rule=Start.read(place / "denoiser").rule)
        .records
    )
    cohort = draw_cohort(records, task.options)
    assert len(cohort.train) == 3
    with torch.no_grad():
        seen = [task.denoiser(record.patch((0, 0), record.space)[None]) for record in cohort.train]
    values = torch.cat([each.flatten() for each in seen])
    assert values.mean().abs() < 0.05
    assert values.std() == pytest.approx(1, abs=0.05)


def test_must_have_6_the_target_has_a_border(place: Path) -> None:
    """And turns move image and objects alike; validation scans are not turned."""
    task, _, _ = built(place, None)
    index = index_scans(place / "discs", labelled=True)
    record = (
        Store(place / "cache")
        .prepare(index.sources, rule=Start.read(place / "denoiser").rule)
        .records[0]
    )
    whole = record.mask_patch((0, 0), record.space).numpy()
    task.options = FinetuneOptions(encoder="care-unet-tiny", patch_size=(48, 48))
    ways = set()
    for seed in range(40):
        image, truth = task.views(record, generator(seed))
        assert set(truth.unique().tolist()) == {0, 1, 2}
        assert image[0][truth == 1].mean() > image[0][truth == 0].mean() + 0.5
        assert (truth == 1).sum() == (three_classes(whole) == 1).sum()
        ways.add(tuple(truth.flatten().tolist()))
    assert len(ways) == 8
    task.quiet = frozenset([record.key])
    still = {
        tuple(task.views(record, generator(seed)).truth.flatten().tolist()) for seed in range(9)
    }
    assert still == {tuple(three_classes(whole).flatten().tolist())}


@pytest.mark.parametrize("mode", ["finetune", "finetune-sequential"])
def test_from_training_to_numbered_objects(place: Path, tmp_path: Path, mode: str) -> None:
    done = finetune(
        "instances", place / "discs", tmp_path / "run", init=place / "denoiser", mode=mode,
        cache=place / "cache", patch_size=(32, 32), steps=4, epochs=2, batch_size=2, lr=3e-3,
        test=True, **QUICK,
    )  # fmt: skip
    precision = done.metrics["test"].measures["average precision"].value
    assert precision == pytest.approx(
        np.mean([row["average precision"] for row in done.metrics["test"].rows])
    )
    saved = load_task(tmp_path / "run")
    assert (saved.task.denoiser is not None) == mode.endswith("sequential")
    assert saved.task.threshold in THRESHOLDS
    if saved.task.denoiser is not None:  # stood still
        for name, tensor in carried(place).items():
            assert torch.equal(saved.task.denoiser.state_dict()[name], tensor), name
    out = predict(
        tmp_path / "run", place / "discs" / "images", tmp_path / "out", cache=place / "cache",
        probabilities=True, quiet=True,
    )  # fmt: skip
    assert len(out.rows) == 10
    found = {Path(row["file"]).stem: row["objects"] for row in out.rows}
    for row in done.metrics["test"].rows:
        name = Path(row["scan"]).stem
        mask = np.asarray(Image.open(tmp_path / "out" / f"{name}.png"))
        interior = np.asarray(Image.open(tmp_path / "out" / f"{name}_p_interior.png")) / 65535
        assert mask.max() == row["found"] == found[name]
        assert ((mask > 0) == (interior > saved.task.threshold)).mean() > 0.999
        assert (number_objects(mask > 0) == mask).all()


def test_the_threshold_is_the_best_on_validation_scans(place: Path, monkeypatch) -> None:
    """A network that is never surer of the interior than 0.42 needs a threshold below; of equals, the lowest."""
    task, _, _ = built(place, None)
    records = _records(place)

    def logits(task, record):
        inside = three_classes(record.mask_patch((0, 0), record.space).numpy()) == 1
        likely = torch.from_numpy(np.where(inside, 0.42, 0.27)).float()
        return torch.stack([0.5 * (1 - likely), likely, 0.5 * (1 - likely)]).log()

    monkeypatch.setattr(instances, "segment_logits", logits)
    task.calibrate([])
    assert task.threshold == 0.5
    task.calibrate(records)
    assert task.threshold == 0.3
    assert tuple(np.linspace(0.1, 1, 19).round(2)) == THRESHOLDS


def test_volumes_plane_by_plane_and_whole(tmp_path: Path, balls) -> None:
    for dims, patch in ((2, (16, 16)), (3, (16, 16, 16))):
        done = finetune(
            "instances", balls(8, f"balls{dims}"), tmp_path / f"run{dims}", init="scratch", dims=dims,
            encoder="care-unet-tiny", patch_size=patch, steps=2, epochs=1, batch_size=2,
            cache=tmp_path / "cache", **QUICK,
        )  # fmt: skip
        (row,) = done.metrics["val"].rows
        assert row["true"] == 2
        assert 0 <= row["average precision"] <= 1


@pytest.mark.parametrize("mode", MODES[1:])
def test_modes_that_need_a_denoiser_say_so(place: Path, tmp_path: Path, mode: str) -> None:
    with pytest.raises(OptionError, match=f"--mode {mode}.*scratch") as fault:
        built(place, mode, init="scratch")
    assert "--init RUN" in fault.value.remedy


def test_other_weights_do_not_denoise(place: Path, tmp_path: Path) -> None:
    """A fine-tuned task, or another method's run, is a start but no denoiser."""
    finetune(
        "instances", place / "discs", tmp_path / "run", init=place / "denoiser", steps=1, epochs=1,
        cache=place / "cache", **QUICK,
    )  # fmt: skip
    with pytest.raises(RunError, match="finetune-instances") as fault:
        built(place, "sequential", init=tmp_path / "run")
    assert "voidseg" in fault.value.remedy


def test_a_denoiser_of_other_channels_is_refused(place: Path, tmp_path: Path) -> None:
    for part in ("images", "labels"):
        (tmp_path / "discs" / part).mkdir(parents=True)
    for seed in range(4):
        image, numbers = discs(seed)
        colour = np.repeat(image.clip(0, 255).astype(np.uint8)[..., None], 3, 2)
        colour[..., 1] //= 2
        Image.fromarray(colour).save(tmp_path / "discs" / "images" / f"d{seed}.png")
        Image.fromarray(numbers).save(tmp_path / "discs" / "labels" / f"d{seed}.png")
    with pytest.raises(RunError, match="whole denoiser"):
        finetune(
            "instances", tmp_path / "discs", tmp_path / "run", init=place / "denoiser",
            mode="sequential", steps=1, epochs=1, cache=tmp_path / "cache", **QUICK,
        )  # fmt: skip


def test_previews_show_what_is_seen(place: Path) -> None:
    for mode, shown in ((None, 4), ("sequential", 5)):
        task, _, _ = built(place, mode)
        batch = torch.utils.data.default_collate(
            [task.views(record, generator(0)) for record in _records(place)]
        )
        with torch.no_grad():
            pictures = task.eval().preview(batch)
        assert len(pictures) == shown
        assert all(each.min() >= 0 and each.max() <= 1 for each in pictures.values())


def _records(place: Path):
    index = index_scans(place / "discs", labelled=True)
    return (
        Store(place / "cache")
        .prepare(index.sources, rule=Start.read(place / "denoiser").rule)
        .records[:2]
    )
