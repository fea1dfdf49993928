from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from unlabeled.data.layouts import (
    candidates,
    describe_others,
    image_place,
    listed,
    mask_place,
    owner,
    read_label_names,
    split_of,
    stem,
)
from unlabeled.data.walk import list_files
from unlabeled.errors import DataError


@pytest.mark.parametrize(
    ("folder", "name", "subject", "study"),
    [
        ("", "a.nii.gz", "a", "a"),
        ("images", "a.png", "a", "a"),
        ("p1", "t1.nii", "p1", "p1"),
        ("p1/2020", "t1.nii", "p1", "p1/2020"),
        ("p1/2020/anat/deep", "t1.nii", "p1", "p1/2020"),
        ("Train/Images/p1", "t1.nii", "p1", "p1"),
        ("data/raw", "p1.nii", "p1", "p1"),
    ],
)
def test_whose_a_file_is(folder, name, subject, study):
    assert owner(folder, name) == (subject, study)


def test_parts_of_paths():
    assert stem("A.NII.GZ") == "A"
    assert split_of("a/b") is None
    assert mask_place("labels") == ("", "")
    assert image_place("images/p1") == ("", "p1")
    assert image_place("p1") == ("p1", "")


def test_formats_are_told_by_suffix_in_any_case_and_by_content(tmp_path):
    (tmp_path / "a.PnG").touch()
    (tmp_path / "b.NII.GZ").touch()
    (tmp_path / "c.tar.gz").touch()
    (tmp_path / "plain").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "text").write_text("words")
    picked, others, looked_into = candidates(list_files(tmp_path))
    assert picked == {"": [("a.PnG", "picture"), ("b.NII.GZ", "nifti"), ("plain", "dicom")]}
    assert others == Counter({".gz": 1, "no suffix": 1})
    assert looked_into == {"plain": "dicom", "text": ""}


def test_long_lists_are_cut():
    many = Counter({f".{letter}": 1 for letter in "abcdefghij"})
    assert describe_others(many)[0].endswith("and 2 more kinds")
    assert describe_others(Counter()) == []
    assert listed("abc") == "a, b, c"


@pytest.mark.parametrize("labels", [{"x": True}, {"x": None}, {"x": "y"}, {"x": {}}, "x"])
def test_labels_that_name_nothing_are_refused(labels):
    with pytest.raises(DataError):
        read_label_names(labels, Path("dataset.json"))
