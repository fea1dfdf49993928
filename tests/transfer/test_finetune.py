"""Fine-tuning from files to metrics: splits, label fractions, budget, loading, refusal, resume."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlabeled.data.intensity import IntensityRule
from unlabeled.data.scan import Index, ScanFile, Source
from unlabeled.errors import DataError, OptionError, RunError
from unlabeled.nn.decoders import DenseUpsampling
from unlabeled.nn.encoders import build_encoder
from unlabeled.nn.weights import read_weights, save_encoder
from unlabeled.transfer.cohort import draw_cohort, fitting_patch, plan_length, usable_sources
from unlabeled.transfer.finetune import finetune
from unlabeled.transfer.predict import predict
from unlabeled.transfer.saved import load_task
from unlabeled.transfer.task import FinetuneOptions

TINY: dict[str, Any] = {
    "encoder": "resenc-tiny",
    "patch_size": (16, 16, 16),
    "steps": 4,
    "epochs": 2,
    "batch_size": 2,
    "quiet": True,
    "workers": 0,
}


@dataclass(frozen=True)
class Row:
    """What `draw_cohort` reads of a record."""

    subject: str
    split: str | None = None
    family: str = ""

    @property
    def source(self) -> Any:
        return Source(
            name=self.subject,
            channels=(),
            subject=self.subject,
            split=self.split,
            family=self.family,
        )


def rows(count: int, split: Sequence[str | None] = (None,)) -> list[Row]:
    return [Row(f"s{n:03d}", split[n % len(split)]) for n in range(count)]


@given(count=st.integers(3, 60), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_parts_share_no_subject_and_hold_all(count: int, seed: int) -> None:
    records = [*rows(count), *rows(count)]  # two scans each
    cohort = draw_cohort(records, FinetuneOptions(split_seed=seed))
    parts = [{r.subject for r in part} for part in (cohort.train, cohort.val, cohort.test)]
    assert sum(len(part) for part in parts) == len(set().union(*parts)) == count
    assert all(parts)
    assert sum(map(len, (cohort.train, cohort.val, cohort.test))) == 2 * count


@given(seed=st.integers(0, 99), few=st.integers(2, 10), more=st.integers(0, 10))
@settings(max_examples=30, deadline=None)
def test_label_fractions_are_nested_and_leave_validation_and_test_alone(
    seed: int, few: int, more: int
) -> None:
    records = rows(40)
    drawn = [
        draw_cohort(records, FinetuneOptions(seed=seed, label_fraction=float(n)))
        for n in (few, few + more)
    ]
    small, large = ({r.subject for r in cohort.train} for cohort in drawn)
    assert small <= large
    assert (len(small), len(large)) == (few, few + more)
    assert (drawn[0].val, drawn[0].test) == (drawn[1].val, drawn[1].test)
    assert drawn[0].train_subjects == drawn[1].train_subjects


def test_one_means_all_and_a_share_is_rounded() -> None:
    whole = draw_cohort(rows(40), FinetuneOptions(label_fraction=1.0))
    half = draw_cohort(rows(40), FinetuneOptions(label_fraction=0.5))
    assert len(whole.train) == whole.train_subjects
    assert len(half.train) == round(whole.train_subjects / 2)


def test_the_manifest_decides_the_split_and_validation_comes_from_training() -> None:
    told = draw_cohort(rows(30, ("train", "val", "test")), FinetuneOptions())
    assert {r.split for r in told.test} == {"test"}
    assert {r.split for r in told.val} == {"val"}
    bare = draw_cohort(rows(32, ("train", "test")), FinetuneOptions())
    assert {r.split for r in bare.val} == {"train"}
    assert not {r.subject for r in bare.val} & {r.subject for r in bare.train}


@given(seed=st.integers(0, 99), told=st.sampled_from([(None,), ("train", "train", "test")]))
@settings(max_examples=20, deadline=None)
def test_relatives_are_in_one_part(seed: int, told: tuple[str | None, ...]) -> None:
    records = [Row(f"s{n:03d}", told[n // 3 % len(told)], f"f{n // 3}") for n in range(36)]
    records += [Row(f"t{n}", told[0]) for n in range(4)]
    cohort = draw_cohort(records, FinetuneOptions(split_seed=seed))
    parts = [{r.source.kin for r in part} for part in (cohort.train, cohort.val, cohort.test)]
    assert all(parts)
    assert sum(map(len, parts)) == len(set().union(*parts)) == 16
    assert sum(map(len, (cohort.train, cohort.val, cohort.test))) == 40


def test_few_subjects_are_all_trained_on() -> None:
    cohort = draw_cohort(rows(2), FinetuneOptions())
    assert (len(cohort.train), cohort.val, cohort.test) == (2, (), ())


@pytest.mark.parametrize(
    ("records", "fraction", "words"),
    [
        ([Row("a", "train"), Row("a", "test")], 1.0, "is in train and in test"),
        ([Row("a", "train", "f"), Row("b", "val", "f")], 1.0, "family of b is in train and in val"),
        ([Row("a", "holdout")], 1.0, "split 'holdout'"),
        ([Row("a", "test")], 1.0, "none of 1"),
        (rows(20), 2.5, "neither a share nor a number"),
        (rows(20), 500.0, "500"),
    ],
)
def test_what_cannot_be_divided_is_refused(records: list[Row], fraction: float, words: str) -> None:
    with pytest.raises((DataError, OptionError), match=words):
        draw_cohort(records, FinetuneOptions(label_fraction=fraction))


@given(steps=st.integers(1, 3000), epochs=st.integers(1, 50), scans=st.integers(1, 400))
@settings(max_examples=50, deadline=None)
def test_every_label_fraction_gets_the_same_number_of_steps(
    steps: int, epochs: int, scans: int
) -> None:
    planned = plan_length(FinetuneOptions(steps=steps, epochs=epochs, batch_size=4), scans)
    a_round = max(1, scans * planned.samples_per_scan // 4)
    assert planned.epochs * a_round >= steps
    assert planned.steps == steps


def test_sources_without_the_column_are_named() -> None:
    file = ScanFile((Path("a.png"),), "picture")
    bare = Source(name="a.png", channels=(file,), subject="a", label="x")
    index = Index(root=Path("here"), sources=(bare, replace(bare, name="b.png", label=None)))
    usable, left_out = usable_sources("classify", index)
    assert [s.name for s in usable] == ["a.png"]
    assert [q.name for q in left_out] == ["b.png"]
    with pytest.raises(DataError, match="has a mask") as told:
        usable_sources("segment", index)
    assert "classify label" in told.value.remedy


def test_a_patch_fits_scan_and_stride() -> None:
    @dataclass
    class Shape:
        space: tuple[int, ...]
        dims: int = 3

    encoder = build_encoder("resenc-tiny", dims=3)
    records = [Shape((35, 51, 200))] * 3
    patch = fitting_patch(records, encoder)  # type: ignore[arg-type]
    for edge, stride, n in zip(patch, encoder.strides[-1], (35, 51, 200), strict=True):
        assert edge % stride == 0
        assert edge <= 64 or edge == stride
        assert edge >= min(n, 64 // stride * stride)


@pytest.fixture
def run(balls: Callable[..., Path], tmp_path: Path) -> Callable[..., Any]:
    folder = balls(8)

    def go(name: str = "run", task: Any = "segment", labelled: Path = folder, **how: Any) -> Any:
        values = {"init": "scratch", **TINY, **how}
        return finetune(task, labelled, tmp_path / name, cache=tmp_path / "cache", **values)

    return go


def test_segmentation_leaves_a_complete_run_folder(run: Callable[..., Any], tmp_path: Path) -> None:
    done = run(test=True)
    folder = tmp_path / "run"
    for name in ("options.toml", "run.json", "log.jsonl", "metrics.csv", "metrics.json"):
        assert (folder / name).is_file(), name
    assert done.result.steps == 4
    assert set(done.metrics) == {"val", "test"}
    written = json.loads((folder / "metrics.json").read_text())
    assert written["test"]["unit"] == "mm"
    assert set(written["test"]["measures"]) >= {"dice", "hd95", "nsd", "dice label 1"}
    with (folder / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    assert {row["class"] for row in table} == {"label 1", "label 2"}
    tested = {row["subject"] for row in table if row["split"] == "test"}
    assert len(tested) == done.subjects["test"]
    facts = json.loads((folder / "run.json").read_text())
    assert facts["init"] == "scratch"
    assert facts["subjects"] == done.subjects
    saved = load_task(folder)
    assert saved.task.kind == "segment"
    assert saved.metadata["orientation"] == "RAS"


def test_dense_upsampling_from_training_to_prediction(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    done = run(decoder="duc")
    saved = load_task(done.out)
    assert isinstance(saved.task.get_submodule("decoder"), DenseUpsampling)
    images = tmp_path / "balls" / "images"
    predicted = predict(done.out, images, tmp_path / "masks", cache=tmp_path / "cache", quiet=True)
    assert len(predicted.rows) == 8
    assert not predicted.quarantine


def test_the_test_subjects_are_left_alone_unless_asked(run: Callable[..., Any]) -> None:
    assert set(run().metrics) == {"val"}


@pytest.mark.slow
def test_pretrained_weights_are_loaded_reported_and_moved_on(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    torch.manual_seed(3)
    encoder = build_encoder("resenc-tiny", dims=3)
    facts = {
        "slug": "toy",
        "orientation": "RAS",
        "spacing": [1.0, 1.0, 1.0],
        "intensity": IntensityRule().as_metadata(),
        "patch_size": [16, 16, 16],
    }
    save_encoder(tmp_path / "pre" / "encoder.safetensors", {"encoder": encoder}, facts)
    how = {"encoder": "", "patch_size": ()}
    done = run("warm", init=tmp_path / "pre", warmup=1.0, keep="last", **how)
    assert done.loaded is not None
    assert (done.loaded.share, done.loaded.missing) == (1.0, ())
    after, metadata = read_weights(tmp_path / "warm")
    assert metadata["patch_size"] == [16, 16, 16]
    before, _ = read_weights(tmp_path / "pre")
    assert all(torch.equal(after[name], before[name]) for name in before)  # it stood still
    moved = run("moved", init=tmp_path / "pre", keep="last", **how)
    after, _ = read_weights(moved.out)
    assert not all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"intensity": IntensityRule(kind="zscore").as_metadata()}, None),
        ({"spacing": [4.0, 4.0, 4.0]}, "voxels of 4 4 4 mm"),
        ({"orientation": "LPS"}, "LPS"),
    ],
)
def test_weights_that_disagree_are_refused_and_their_rule_is_taken(
    run: Callable[..., Any], tmp_path: Path, change: dict[str, Any], words: str | None
) -> None:
    facts = {
        "orientation": "RAS",
        "intensity": IntensityRule().as_metadata(),
        "patch_size": [16, 16, 16],
        **change,
    }
    file = tmp_path / "pre.safetensors"
    save_encoder(file, {"encoder": build_encoder("resenc-tiny", dims=3)}, facts)
    if words is None:
        done = run(init=file, encoder="", patch_size=(), steps=1, epochs=1)
        assert load_task(done.out).rule.kind == "zscore"
    else:
        with pytest.raises(RunError, match=words):
            run(init=file, encoder="", patch_size=())


def test_weights_of_another_network_are_refused(run: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    save_encoder(file, {"encoder": torch.nn.Conv3d(1, 2, 3)}, {})
    with pytest.raises(RunError, match="does not say which network"):
        run(init=file, encoder="")
    with pytest.raises(RunError, match="does not fit"):
        run("other", init=file)


@pytest.mark.slow
def test_interrupted_and_resumed_equals_uninterrupted(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unlabeled.transfer.tasks import Segment

    whole = run("whole", keep="last")
    step, count = Segment.step, iter(range(100))

    def breaking(self: Segment, batch: Any) -> Any:
        if next(count) == 3:
            raise KeyboardInterrupt
        yield from step(self, batch)

    monkeypatch.setattr(Segment, "step", breaking)
    with pytest.raises(KeyboardInterrupt):
        run("parts", keep="last", checkpoint_steps=1)
    monkeypatch.setattr(Segment, "step", step)
    again = run("parts", keep="last", checkpoint_steps=1, resume=True)
    one, _ = read_weights(whole.out / "task.safetensors")
    other, _ = read_weights(again.out / "task.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_classification_and_regression_from_a_manifest(
    pictures: Callable[..., Path], run: Callable[..., Any], tmp_path: Path
) -> None:
    manifest = pictures(24, target=True)
    how = {"patch_size": (32, 32), "steps": 30, "batch_size": 8, "augment": False}
    weighed = {**how, "class_weights": "balanced"}
    done = run("classes", "classify", manifest, encoder="resenc-tiny", test=True, **weighed)
    measures = done.metrics["test"].measures
    assert measures["auc"].value >= 0.75
    assert measures["accuracy"].low <= measures["accuracy"].value <= measures["accuracy"].high
    targets = run("targets", "regress", manifest, encoder="resenc-tiny", **{**how, "steps": 2})
    assert "absolute error" in targets.metrics["val"].measures


def test_an_unknown_task_and_an_existing_run_are_refused(run: Callable[..., Any]) -> None:
    with pytest.raises(OptionError, match="unknown task"):
        run(task="detect")
    run(steps=1, epochs=1)
    with pytest.raises(RunError, match="already holds a run") as told:
        run()
    assert "--resume" in told.value.remedy


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ({"label_fraction": 500.0}, DataError),
        ({"encoder": "unet", "patch_size": (5,)}, OptionError),
    ],
)
def test_a_refusal_leaves_no_folder_behind(
    balls: Callable[..., Path], tmp_path: Path, wrong: dict[str, Any], fault: type[Exception]
) -> None:
    labelled, out = balls(5), tmp_path / "runs" / "new"
    with pytest.raises(fault):
        finetune("segment", labelled, out, init="scratch", cache=tmp_path, **{**TINY, **wrong})
    assert not out.exists()
    out.mkdir()  # one that a person made stays
    with pytest.raises(fault):
        finetune("segment", labelled, out, init="scratch", cache=tmp_path, **{**TINY, **wrong})
    assert out.exists()
