"""From a folder of scans to predictions, as a person types it, and what lies in the folders afterwards."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from desk import FLAT, TILTED, TINY, Said, type_in
from PIL import Image
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from safetensors import safe_open
from safetensors.torch import load_file

from unlabeled import load_encoder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_pretraining_leaves_the_run_folder_of_the_contract(desk: Path, pretrained: Said) -> None:
    assert (pretrained.code, "5 scans, 1 left out" in pretrained.out) == (0, True)
    assert "next: unlabeled finetune segment LABELLED --init run1" in pretrained.out
    run = desk / "run1"
    names = {path.name.split(".out.")[0] for path in run.iterdir()}
    assert names == {
        *("options.toml", "run.json", "log.jsonl", "events", "previews", "checkpoints"),
        *("encoder.safetensors", "quarantine.csv"),
    }
    options = tomllib.loads((run / "options.toml").read_text())
    assert (options["steps"], options["patch_size"], options["p_shuffle"]) == (4, [16, 16, 16], 0.5)
    told = (run / "options.toml").read_text()
    assert "steps = 4  # command line" in told
    assert "p_shuffle = 0.5  # default" in told
    facts = json.loads((run / "run.json").read_text())
    assert (facts["finished"], facts["exit_reason"], facts["steps"]) == (True, "finished", 4)
    assert (facts["scans"], facts["quarantined"], facts["subjects"]) == (5, 1, 5)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    steps = [line["total"] for line in log if "loss" in line]
    assert steps == [1, 2, 3, 4]
    assert all({"lr", "scans_per_second", "wait_share"} <= set(line) for line in log[:1])
    for each in (run / "previews").iterdir():
        with Image.open(each) as panel:
            assert panel.size[0] > 32
    assert {path.stem for path in (run / "checkpoints").iterdir()} == {"last", "best"}
    (left_out,) = rows_of(run / "quarantine.csv")
    assert left_out["file"] == "cut.nii.gz"
    assert "cut off" in left_out["reason"]
    assert left_out["remedy"]


def test_the_encoder_says_what_it_is(desk: Path, pretrained: Said) -> None:
    encoder, facts = load_encoder(desk / "run1")
    assert (encoder.name, encoder.dims, facts["slug"]) == ("resenc-tiny", 3, "models-genesis")
    wanted = {"channels", "spacing", "orientation", "intensity", "patch_size", "licence"}
    assert wanted | {"citation", "version"} <= set(facts)


def test_finetuning_reports_loading_parts_and_scores(desk: Path, finetuned: Said) -> None:
    assert finetuned.code == 0, finetuned.err
    assert "0 missing, 0 unexpected (100% of the network loaded)" in finetuned.out
    assert "note: decoder:" in finetuned.out
    assert "4 subjects to train, 1 to validate, 1 to test; 4 steps" in finetuned.out
    assert "val, 1 subject: mean" in finetuned.out
    assert {row["split"] for row in rows_of(desk / "run2" / "metrics.csv")} == {"val"}


def test_masks_lie_on_the_original_grid_and_files_name_everything(
    desk: Path, finetuned: Said, tmp_path: Path
) -> None:
    said = type_in(["predict", "run2", "scans", "--out", tmp_path / "masks", "--probabilities"])
    assert said.code == 0, said.err
    assert f"5 scans predicted: {tmp_path}/masks/predictions.csv; 1 left out" in said.out
    mask = nib.load(tmp_path / "masks" / "tilted.nii.gz")
    np.testing.assert_allclose(mask.affine, TILTED, atol=1e-5)
    assert mask.shape == (18, 22, 20)
    values = np.asanyarray(mask.dataobj)
    assert np.issubdtype(values.dtype, np.integer)
    named = json.loads((tmp_path / "masks" / "labels.json").read_text())["labels"]
    assert set(np.unique(values)) <= set(named.values()) == {0, 1, 2}
    likely = [nib.load(path).get_fdata() for path in (tmp_path / "masks").glob("tilted_p_*.nii.gz")]
    assert len(likely) == 3
    np.testing.assert_allclose(sum(likely), 1.0, atol=1e-4)
    rows = {row["file"]: row for row in rows_of(tmp_path / "masks" / "predictions.csv")}
    voxel = abs(np.linalg.det(TILTED[:3, :3])) / 1000
    (first,) = [float(v) for name, v in rows["tilted.nii.gz"].items() if name == "label 1 [ml]"]
    assert first == pytest.approx((values == 1).sum() * voxel, rel=0.02)  # sheared
    assert [row["file"] for row in rows_of(tmp_path / "masks" / "quarantine.csv")] == ["cut.nii.gz"]


def test_pictures_with_a_manifest_are_classified_and_probed(desk: Path) -> None:
    words = ["pretrain", "models-genesis", "pics.csv", "--out", "flat", *FLAT, "--steps", "2"]
    assert type_in([*words, "--quiet"]) == Said(0, "", "")
    tuned = type_in(
        [
            "finetune",
            "classify",
            "pics.csv",
            "--init",
            "flat",
            "--out",
            "flat2",
            "--steps",
            "2",
            "--batch-size",
            "2",
            "--json",
        ]
    )
    assert tuned.code == 0, tuned.err
    assert json.loads(tuned.out)["subjects"] == {"train": 8, "val": 4, "test": 0}
    said = type_in(["predict", "flat2", "pics", "--out", "flat3", "--json"])
    predictions = json.loads(said.out)["predictions"]
    assert len(predictions) == 12
    assert all(row["p ill"] + row["p well"] == pytest.approx(1) for row in predictions)
    rows = rows_of(desk / "flat3" / "predictions.csv")
    assert [row["predicted"] for row in rows] == [row["predicted"] for row in predictions]
    for kind in ("linear", "knn"):
        said = type_in(["probe", "pics.csv", "--init", "flat", "--kind", kind])
        assert said.code == 0, said.err
        assert f"{kind} probe on 8 subjects, 2 classes" in said.out
        assert "by chance 0.500" in said.out


@pytest.mark.parametrize("tool", ["safetensors", "nnunet"])
def test_exported_weights_are_the_runs(
    desk: Path, pretrained: Said, tmp_path: Path, tool: str
) -> None:
    out = tmp_path / ("weights.safetensors" if tool == "safetensors" else "weights.pth")
    said = type_in(["export", "run1", "--to", tool, "--out", out])
    assert (said.code, f"wrote {out}" in said.out) == (0, True), said.err
    if tool == "safetensors":
        own = load_encoder("run1")[0].state_dict()
        assert all(load_file(out)[name].equal(tensor) for name, tensor in own.items())


def test_cache_check_and_doctor_answer(desk: Path, pretrained: Said) -> None:
    listed = json.loads(type_in(["cache", "--json"]).out)
    assert sum(one["scans"] for one in listed["preparations"]) >= 5
    assert "6 usable scans" in type_in(["check", "scans"]).out
    deep = type_in(["check", "scans", "--deep", "--for", "models-genesis"])
    assert "5 usable scans of 5 subjects in 5 studies; 1 file left out" in deep.out
    doctor = json.loads(type_in(["doctor", "--json"]).out)
    assert set(doctor["extras"]) == {"demo", "board", "itk", "parquet", "onnx"}


def test_options_come_from_a_file_and_say_so(desk: Path, pretrained: Said, tmp_path: Path) -> None:
    (tmp_path / "unlabeled.toml").write_text(
        'encoder = "resenc-tiny"\npatch-size = [16, 16, 16]\nbatch_size = 2\nsteps = 9\nquiet = true\n'
    )
    os.chdir(tmp_path)  # `at_the_desk` moves back
    words = ["pretrain", "models-genesis", desk / "scans", "--out", "run", "--steps", "1"]
    assert type_in(words) == Said(0, "", "")
    told = (tmp_path / "run" / "options.toml").read_text()
    assert 'encoder = "resenc-tiny"  # file' in told
    assert "steps = 1  # command line" in told


def test_starting_from_weights_reports_what_was_loaded(
    desk: Path, pretrained: Said, tmp_path: Path
) -> None:
    words = ["pretrain", "models-genesis", "scans", "--out", tmp_path / "run", "--init", "run1"]
    said = type_in([*words, *TINY, "--steps", "1"])
    assert (said.code, "0 missing, 0 unexpected" in said.out) == (0, True), said.err
    assert "tensors matched" in json.loads((tmp_path / "run" / "run.json").read_text())["loaded"][0]


def test_going_on_with_what_is_finished_changes_no_weight(desk: Path, pretrained: Said) -> None:
    before = load_file(desk / "run1" / "encoder.safetensors")
    said = type_in(["pretrain", "models-genesis", "scans", "--out", "run1", "--resume"])
    assert said.code == 0, said.err
    after = load_file(desk / "run1" / "encoder.safetensors")
    assert all(after[name].equal(tensor) for name, tensor in before.items())


NAME, NUMBER, BORN = "Mustermann^Erika", "HOSP-4711-0815", "19620317"


def write_series(folder: Path) -> None:
    """Write a CT series of a person with a name."""
    folder.mkdir(parents=True)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    rng = np.random.default_rng(0)
    for number in range(18):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = CTImageStorage
        data.SOPInstanceUID = generate_uid()
        data.PatientName, data.PatientID, data.PatientBirthDate = NAME, NUMBER, BORN
        data.StudyDate = BORN
        data.StudyInstanceUID, data.SeriesInstanceUID = study, series
        data.FrameOfReferenceUID, data.Modality, data.InstanceNumber = frame, "CT", number + 1
        data.Rows, data.Columns, data.SamplesPerPixel = 20, 20, 1
        data.PhotometricInterpretation = "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        data.PixelRepresentation = 1
        data.PixelSpacing, data.SliceThickness = [1.0, 1.0], 2.0
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.ImagePositionPatient = [0, 0, 2.0 * number]
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        data.PixelData = rng.integers(0, 2000, (20, 20)).astype("<i2").tobytes()
        data.save_as(folder / f"{number:03d}.dcm", enforce_file_format=True)


def test_no_name_number_or_date_of_a_patient_leaves_the_headers(desk: Path, tmp_path: Path) -> None:
    write_series(tmp_path / "archive" / "a" / "ct")
    write_series(tmp_path / "archive" / "b" / "ct")
    cache = ["--cache", tmp_path / "cache"]
    words = ["pretrain", "models-genesis", tmp_path / "archive", "--out", tmp_path / "run"]
    said = [
        type_in(["check", tmp_path / "archive", "--deep"]),
        type_in(["check", tmp_path / "archive", "--json"]),
        type_in([*words, *TINY, *cache, "--steps", "1"]),
    ]
    assert [one.code for one in said] == [0, 0, 0], said
    written = [path for part in ("cache", "run") for path in (tmp_path / part).rglob("*")]
    files = [path for path in written if path.is_file()]
    assert len(files) > 8
    for secret in ("Mustermann", "Erika", NUMBER, BORN):
        assert not any(secret in one.out + one.err for one in said)
        assert not any(secret in str(path.relative_to(tmp_path)) for path in written)
        assert not [path for path in files if secret.encode() in path.read_bytes()]


# what only a process of its own shows


def script() -> str:
    found = Path(sys.executable).with_name("unlabeled")
    return str(found) if found.exists() else shutil.which("unlabeled") or "unlabeled"


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


def test_the_listing_ends_quietly_when_its_reader_does_and_needs_no_torch(desk: Path) -> None:
    listing = subprocess.Popen(
        [script(), "methods", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    assert listing.stdout is not None
    assert listing.stderr is not None
    listing.stdout.readline()
    listing.stdout.close()
    assert listing.stderr.read() == b""
    listing.stderr.close()
    assert listing.wait(60) == 0
    code = (
        "import sys; from unlabeled.cli.app import run; "
        "run(['methods']); lean = 'numpy' not in sys.modules; run(['check', 'scans']); "
        "sys.exit(not lean or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=ENVIRONMENT)
    assert done.returncode == 0


def test_ctrl_c_saves_says_how_to_go_on_and_going_on_changes_nothing(
    desk: Path, tmp_path: Path
) -> None:
    words = ["pretrain", "models-genesis", "pics", *FLAT, "--steps", "30", "--log-every", "1"]
    out = tmp_path / "stopped run"
    process = subprocess.Popen(
        [script(), *words, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    log = out / "log.jsonl"
    until = time.monotonic() + 120
    while not (log.exists() and log.read_text().count("loss") >= 3):
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said, told = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "")
    assert "the checkpoint is complete. Go on with:" in told
    again = told.splitlines()[-1].strip()
    assert again == f"unlabeled {' '.join(words)} --out '{out}' --resume"
    assert "Traceback" not in told
    assert json.loads((out / "run.json").read_text())["exit_reason"] == "interrupted"
    resumed = type_in([*words, "--out", out, "--resume"])
    assert resumed.code == 0, resumed.err
    whole = type_in([*words, "--out", tmp_path / "whole"])
    assert whole.code == 0, whole.err
    with (
        safe_open(out / "encoder.safetensors", "pt") as one,
        safe_open(tmp_path / "whole" / "encoder.safetensors", "pt") as other,
    ):
        for name in one.keys():  # noqa: SIM118
            assert one.get_tensor(name).equal(other.get_tensor(name)), name
