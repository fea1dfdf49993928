"""What a person reads after a mistake: the fact, what to type, the right exit code, and never a traceback."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from desk import TINY, Said, type_in

from unlabeled.cli import app
from unlabeled.cli.app import slug_of
from unlabeled.demo.phantoms import write_patients
from unlabeled.errors import DEBUG
from unlabeled.methods._outline import outline
from unlabeled.methods._registry import find, slugs

PRETRAIN = "pretrain models-genesis scans --out new"
WRONG = {
    # words: what is said of them
    "chek scans": ("unknown command 'chek'", "Did you mean `unlabeled check`?"),
    "methods model-genesis": ("unknown method 'model-genesis'", "Did you mean models-genesis?"),
    "methods --dims 4": ("--dims is '4', not one of 2, 3", "unlabeled methods --help"),
    "methods --category nonsense": ("which no method has", "Generative"),
    "check": ("`unlabeled check` needs SCANS", "Type: unlabeled check SCANS"),
    "check nowhere": ("nowhere does not exist", "Give a folder"),
    "check empty": ("empty holds no files", "Give a folder with scans"),
    "check text": ("text holds nothing usable", "1 .txt"),
    "check scans --fro x": ("unknown option --fro", "Did you mean --for?"),
    "pretrain": ("needs SLUG", "Type: unlabeled pretrain SLUG SCANS --out RUN"),
    "pretrain models-genesis scans": ("needs --out", "Type: unlabeled pretrain"),
    "pretrain models-genesis scans --out": ("--out is given without a value",),
    "pretrain --quiet --out new models-genesiz scans --p-flip 1": ("Did you mean models-genesis?",),
    "pretrain gloria scans --out new": (
        "all 6 scans have no report",
        "These methods can learn from them:",
        "models-genesis",
    ),
    "pretrain models-genesis empty --out new": ("empty holds no files",),
    f"{PRETRAIN} more": ("nothing takes 'more'", "Type: unlabeled pretrain"),
    f"{PRETRAIN} --epoch 3": ("unknown option --epoch", "Did you mean --epochs?"),
    f"{PRETRAIN} --epochs zero": ("--epochs is 'zero', not a whole number",),
    f"{PRETRAIN} --epochs 0": ("--epochs is 0, outside its range", "at least 1"),
    f"{PRETRAIN} --lr 0": ("--lr is 0.0, outside its range", "above 0"),
    f"{PRETRAIN} --p-flip 2": ("--p-flip is 2.0, outside its range", "0 to 1"),
    f"{PRETRAIN} --patch-size 16 16": ("has 2 edges, the scans 3 axes", "--dims 2"),
    f"{PRETRAIN} --encoder resnet99": ("unknown encoder 'resnet99'", "resnet50"),
    f"{PRETRAIN} --precision 8": ("--precision is '8', not one of auto, 32, bf16, 16",),
    f"{PRETRAIN} --precision 16 --accelerator cpu": ("a CPU trains in", "--precision bf16"),
    f"{PRETRAIN} --resume": ("new holds no run to go on with", "without --resume"),
    f"{PRETRAIN} --init nothing": ("nothing does not exist", "--init"),
    f"{PRETRAIN} --init empty": ("empty is no finished run", "--init"),
    f"{PRETRAIN} --init text/notes.txt": ("text/notes.txt", "safetensors"),
    f"{PRETRAIN} --config none.toml": ("cannot read none.toml", "--config"),
    f"{PRETRAIN} --config text/broken.toml": ("is no TOML file", "Mend the line"),
    f"{PRETRAIN} --config text/strange.toml": ("stepz", "Did you mean steps?"),
    f"{PRETRAIN} --config text/table.toml": ("pretrain", "without a [table]"),
    f"{PRETRAIN} --config text/kind.toml": ("--steps is 'two', not a whole number",),
    "pretrain models-genesis scans --out pics.csv --steps 1": ("it is a file", "--out"),
    "finetune segmnt lab --init scratch --out new": ("TASK is 'segmnt', not one of segment",),
    "finetune segment lab --out new": ("needs --init", "Type: unlabeled finetune segment"),
    "finetune segment scans --init scratch --out new": ("no labelled scans", "images/ and labels/"),
    "finetune classify lab --init scratch --out new": ("has a label", "segment mask"),
    "finetune segment lab --init scratch --out new --label-fraction 0": ("outside its", "above 0"),
    "finetune segment lab --init scratch --out new --label-fraction 2.5": ("neither a share nor",),
    "predict nowhere scans --out new": ("holds no fine-tuned task", "unlabeled finetune"),
    "predict run2 scans --out new --overlap 2": ("--overlap is 2", "0 to 0.9"),
    "probe lab --init scratch": ("none of 6 scans below lab has a label", "segment mask"),
    "probe pics.csv --init scratch --kind knnn": ("--kind is 'knnn', not one of linear, knn",),
    "export nowhere --to onnx --out new": ("nowhere cannot be read", "run folder"),
    "export nowhere --to keras --out new": ("not one of nnunet, monai",),
    "cache --prune --older-than x": ("--older-than is 'x', not a number",),
    "demo --seeds 0 --out new": ("--seeds is 0", "at least 1"),
    "demo --out scans": ("holds no demo", "--out"),
}
AFTER_RUNS = {
    "pretrain models-genesis scans --out run1 --steps 4": (
        "run1 already holds a run",
        "unlabeled pretrain models-genesis scans --out run1 --steps 4 --resume",
    ),
    "pretrain models-genesis scans --out run1 --resume --lr 0.5": ("--lr is 0.5", "started with 1"),
    "pretrain models-genesis pics --out run1 --resume --dims 2": ("--dims is 2",),
    "pretrain models-genesis lab/images --out run1 --resume": (
        "not those that run1",
        "--init run1",
    ),
    "pretrain models-genesis scans --out run2 --resume": ("is a run of `finetune segment`",),
    "finetune segment lab --init run1 --out run1 --resume": ("of `pretrain models-genesis`",),
    "finetune segment lab --init scratch --out run2 --resume": ("started with --init run1",),
    "finetune segment lab --init run1 --like run1 --out new": ("--like goes with --init scratch",),
    "finetune segment lab --init run1 --out new --label-fraction 500": ("500", "up to 4"),
    "pretrain rubiks-cube pics --out new": ("2D picture in a 3D run", "unlabeled methods --dims 2"),
    "finetune classify pics.csv --init run1 --out new": ("2D picture in a 3D run", "--dims 2"),
    "pretrain models-genesis scans --out new --init run1 --encoder unet": (
        "--encoder resenc-tiny",
    ),
    "predict run1 scans --out new": ("only a pretrained encoder", "--init run1"),
    "predict run2 pics --out new": ("the network takes volumes", "12 scans"),
    "predict run2 scans --out pics.csv": ("it is a file", "--out"),
    "export run1 --to monai --out new": ("MONAI has no network", "nnunet, safetensors, onnx"),
    "export run1 --to nnunet --out new.safetensors": ("nnU-Net reads", "--out new.pth"),
    "export run1 --to safetensors --out empty": ("is a folder", "Give a file"),
}


@pytest.fixture
def broken(desk: Path) -> None:
    for name, text in {
        "broken": "lr = [",
        "strange": "stepz = 3",
        "table": "[pretrain]\nsteps = 2",
        "kind": 'steps = "two"',
    }.items():
        (desk / "text" / f"{name}.toml").write_text(text)


def holds(said: Said, code: int, words: tuple[str, ...]) -> None:
    assert said.code == code, said
    assert said.err.startswith("error: ") or "\nerror: " in said.err, said.err
    assert "Traceback" not in said.err
    joined = " ".join(said.err.split())
    assert [word for word in words if word not in joined] == [], said.err
    assert said.out == ""


@pytest.mark.parametrize("typed", WRONG)
@pytest.mark.usefixtures("broken")
def test_a_mistake_is_named_with_its_remedy(desk: Path, typed: str) -> None:
    shutil.rmtree(desk / "new", ignore_errors=True)
    holds(type_in(typed.split()), 2, WRONG[typed])
    assert not (desk / "new").exists()  # the same words, mended, can be typed again


@pytest.mark.parametrize("typed", AFTER_RUNS)
@pytest.mark.usefixtures("finetuned")
def test_a_run_is_not_taken_for_another(desk: Path, typed: str) -> None:
    shutil.rmtree(desk / "new", ignore_errors=True)
    holds(type_in(typed.split()), 2, AFTER_RUNS[typed])


@pytest.mark.usefixtures("pretrained")
def test_nothing_of_a_run_is_touched_by_a_refusal(desk: Path) -> None:
    before = {path: path.read_bytes() for path in (desk / "run1").rglob("*") if path.is_file()}
    type_in(["pretrain", "models-genesis", "lab/images", "--out", "run1", "--resume"])
    type_in(["pretrain", "models-genesis", "scans", "--out", "run1", "--resume", "--lr", "0.5"])
    after = {path: path.read_bytes() for path in (desk / "run1").rglob("*") if path.is_file()}
    assert after == before


def test_a_loss_that_diverges_is_told_with_what_to_change(desk: Path, tmp_path: Path) -> None:
    words = ["pretrain", "models-genesis", "scans", "--out", tmp_path / "run", *TINY]
    said = type_in([*words, "--lr", "1e30", "--steps", "4", "--log-every", "1"])
    holds(said, 2, ("became nan", "lower --lr"))


def test_a_remedy_with_a_space_can_be_typed(desk: Path, tmp_path: Path) -> None:
    write_patients(tmp_path / "my scans", patients=1, shape=(20, 20, 20))
    (tmp_path / "my run").mkdir()
    (tmp_path / "my run" / "run.json").write_text("{}")
    said = type_in(
        ["pretrain", "models-genesis", tmp_path / "my scans", "--out", tmp_path / "my run"]
    )
    holds(said, 2, (f"'{tmp_path}/my scans' --out '{tmp_path}/my run' --resume",))


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (ZeroDivisionError("division by zero"), 1, ("a fault of Unlabeled", "ZeroDivisionError")),
        (OSError(errno.ENOSPC, "No space left on device", "run/log"), 2, ("run/log", "Make room")),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 2, ("Permission denied",)),
        (MemoryError(), 2, ("memory is used up", "--batch-size")),
        (RuntimeError("CUDA out of memory. Tried"), 2, ("memory is used up", "--patch-size")),
    ],
)
def test_an_unexpected_exception_is_one_line_and_says_whose_fault(
    monkeypatch: pytest.MonkeyPatch, fault: Exception, code: int, words: tuple[str, ...]
) -> None:
    def fail() -> None:
        raise fault

    monkeypatch.setattr("unlabeled.cli.doctor.examine", fail)
    said = type_in(["doctor"])
    holds(said, code, words)
    if code == 1:
        assert "UNLABELED_DEBUG=1" in said.err
        assert "test_messages.py" in said.err
        monkeypatch.setenv(DEBUG, "1")
        with pytest.raises(type(fault)):
            type_in(["doctor"])


def test_an_interruption_outside_training_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unlabeled.cli.doctor.examine", stop)
    assert type_in(["doctor"]) == Said(app.INTERRUPTED, "", "interrupted\n")


@pytest.mark.usefixtures("pretrained")
def test_missing_extras_are_named_with_their_installation(
    desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("pyarrow", "pyarrow.parquet", "SimpleITK", "onnx", "tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "scans.parquet").write_bytes(b"PAR1PAR1")
    (tmp_path / "itk").mkdir()
    (tmp_path / "itk" / "scan.nrrd").write_bytes(b"NRRD0004\n")
    holds(type_in(["check", tmp_path / "scans.parquet"]), 2, ("pip install", "[parquet]"))
    said = type_in(["check", tmp_path / "itk"])
    assert said.code == 2
    assert "unlabeled[itk]" in said.out + said.err
    holds(type_in(["export", "run1", "--to", "onnx", "--out", tmp_path / "x"]), 2, ("[onnx]",))
    words = ["pretrain", "models-genesis", "scans", "--out", tmp_path / "run", *TINY]
    assert type_in([*words, "--steps", "1"]).code == 0
    assert not list((tmp_path / "run").glob("events*"))


@pytest.mark.parametrize(
    "typed", ["--help", "methods", "methods models-genesis", "check scans", "pretrain --help"]
)
def test_what_is_shown_fits_80_columns_without_colour_codes(desk: Path, typed: str) -> None:
    said = type_in(typed.split())
    assert (said.code, said.err) == (0, "")
    assert "\x1b" not in said.out
    long = [line for line in said.out.splitlines() if len(line) > 80 and "://" not in line]
    assert [line for line in long if not line.startswith(("official", "  Models"))] == []
    if typed == "--help":
        assert all(command.does.split(",")[0][:30] in said.out for command in app.COMMANDS.values())


def test_the_method_is_found_wherever_options_stand() -> None:
    assert slug_of(["pretrain", "models-genesis", "scans"]) == "models-genesis"
    assert slug_of(["pretrain", "--out", "models", "models-genesis", "scans"]) == "models-genesis"
    assert slug_of(["pretrain", "--quiet", "nonsense", "scans"]) == "nonsense"
    assert slug_of(["pretrain", "--help"]) is None


@pytest.mark.parametrize("slug", slugs())
def test_the_listing_says_of_a_method_what_the_method_says(slug: str) -> None:
    kind, brief = find(slug), outline(slug)
    assert brief is not None
    needs = kind.needs
    assert (brief.unit, brief.dims) == (needs.unit.value, needs.dims)
    counts = [
        needs.channels,
        needs.some_channels,
        needs.scans_per_subject,
        needs.subjects,
    ]
    told = [*needs.metadata, *(f"some {name}" for name in needs.some)]
    told += [*(["volumes"] if needs.volumes else []), *(["colour"] if needs.colour else [])]
    assert list(brief.needs[: len(told)]) == told
    assert len(brief.needs) == len(told) + sum(count > 1 for count in counts)
    listed = json.loads(type_in(["methods", "--json"]).out)
    (row,) = [row for row in listed if row["slug"] == slug]
    assert (row["runs"], row["carries"]) == (True, list(brief.carries))
    assert row["makes"] == kind.makes


def test_a_column_with_a_slip_of_the_pen_is_named_where_it_is_missed(tmp_path: Path) -> None:
    write_patients(tmp_path / "scans", patients=2, shape=(32, 32))
    images = sorted((tmp_path / "scans").rglob("*.png")) or sorted(
        (tmp_path / "scans").rglob("*.*")
    )
    manifest = tmp_path / "studies.csv"
    rows = [f"{path.relative_to(tmp_path)},the lungs are clear" for path in images]
    manifest.write_text("\n".join(["image,reports", *rows]))
    said = type_in(["pretrain", "refers", manifest, "--out", tmp_path / "run"])
    holds(said, 2, ("have no report", "'reports'", "did you mean report?", "These methods"))


def test_a_folder_of_one_unusable_file_ends_with_its_reason(desk: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.zeros((3,)))
    said = type_in(["pretrain", "models-genesis", tmp_path, "--out", tmp_path / "run"])
    holds(said, 2, ("can be used", "flat.npy", "unlabeled check"))
