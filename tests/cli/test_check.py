from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from unlabeled.cli.app import run


@pytest.fixture
def scans(tmp_path):
    for subject in ("p1", "p2"):
        (tmp_path / subject).mkdir()
        voxels = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
        nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2, 3, 1])), tmp_path / subject / "t1.nii.gz")
    (tmp_path / "p3").mkdir()
    (tmp_path / "p3" / "t1.nii.gz").write_bytes(b"")
    return tmp_path


def test_the_table_says_what_is_there_and_what_is_wrong(scans, capsys):
    assert run(["check", str(scans)]) == 0
    out = capsys.readouterr().out
    assert "2 usable scans of 2 subjects in 2 studies; 1 file left out" in out
    assert "Rule: subject = the first folder" in out
    assert "2 x 2 x 3" in out
    assert "p3/t1.nii.gz is empty" in out
    assert "--deep" in out


def test_json_is_json_alone(scans, capsys):
    assert run(["check", str(scans), "--json", "--deep"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["scans"] == 2
    assert value["deep"] is True
    assert value["quarantine"][0]["name"] == "p3/t1.nii.gz"


def test_nothing_usable_ends_with_2(scans, capsys):
    for subject in ("p1", "p2"):
        (scans / subject / "t1.nii.gz").unlink()
    assert run(["check", str(scans)]) == 2
    assert "Nothing usable" in capsys.readouterr().out
    (scans / "p3" / "t1.nii.gz").unlink()
    assert run(["check", str(scans)]) == 2
    assert "holds no files" in capsys.readouterr().err


def test_a_wrong_path_ends_with_2(tmp_path, capsys):
    assert run(["check", str(tmp_path / "absent")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_labels_are_paired_on_demand(scans, capsys):
    assert run(["check", str(scans), "--labelled"]) == 2
    assert "has no labelled scans" in capsys.readouterr().err


def test_for_a_method_says_whether_it_can_learn(scans, capsys):
    assert run(["check", str(scans), "--for", "models-genesis"]) == 0
    assert "models-genesis: can use 2 scans of 2 subjects" in capsys.readouterr().out


def test_for_an_unknown_method_is_the_persons_mistake(scans, capsys):
    assert run(["check", str(scans), "--for", "model-genesis"]) == 2
    assert "models-genesis" in capsys.readouterr().err


def test_names_with_markup_are_shown_as_they_are(tmp_path, capsys):
    (tmp_path / "[red]a[bold]").mkdir()
    (tmp_path / "[red]a[bold]" / "x.nii").write_bytes(b"")
    assert run(["check", str(tmp_path)]) == 2
    assert "[red]a[bold]/x.nii" in capsys.readouterr().out
