from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from unlabeled.data import index as indexing
from unlabeled.data import layouts, walk
from unlabeled.data.formats import group_series
from unlabeled.data.index import index_scans
from unlabeled.errors import DataError


def scan(path: Path, shape=(4, 5, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2, 3, 1])), path)
    return path


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path)
    return path


def owners(index):
    return {source.name: (source.subject, source.study) for source in index.sources}


def test_files_in_one_folder_are_subjects_of_their_own(tmp_path):
    scan(tmp_path / "p1_t1.nii.gz")
    scan(tmp_path / "p1_t2.nii.gz")
    index = index_scans(tmp_path)
    assert owners(index) == {
        "p1_t1.nii.gz": ("p1_t1", "p1_t1"),
        "p1_t2.nii.gz": ("p1_t2", "p1_t2"),
    }
    assert index.rule == layouts.STEM_RULE
    assert index.layout == "folder"


def test_folders_are_subjects_and_their_folders_studies(tmp_path):
    scan(tmp_path / "train/p1/v1/anat/t1.nii")
    scan(tmp_path / "train/p1/v2/t1.nii")
    picture(tmp_path / "test/p2/front.png")
    index = index_scans(str(tmp_path))
    assert owners(index) == {
        "test/p2/front.png": ("p2", "p2"),
        "train/p1/v1/anat/t1.nii": ("p1", "p1/v1"),
        "train/p1/v2/t1.nii": ("p1", "p1/v2"),
    }
    assert [source.split for source in index.sources] == ["test", "train", "train"]
    assert index.rule == layouts.FOLDER_RULE


def test_mixed_formats_unicode_and_very_long_names(tmp_path):
    long = "x" * 180
    picture(tmp_path / f"größe/{long}/脳 1.PNG")
    scan(tmp_path / "größe/Kopf.NII")
    np.save(tmp_path / "größe/array.npy", np.zeros((3, 3)))
    index = index_scans(tmp_path)
    assert {source.channels[0].format for source in index.sources} == {"picture", "nifti", "npy"}
    assert index.subjects == ("größe",)


def test_other_files_are_counted_by_kind(tmp_path):
    scan(tmp_path / "a.nii")
    for name in ("b.txt", "c.txt", "d.csv", "README"):
        (tmp_path / name).write_text("text")
    notes = index_scans(tmp_path).notes
    assert notes[0] == "4 files passed over as no scans: 2 .txt, 1 no suffix, 1 .csv"
    assert "d.csv was not read" in notes[1]


def test_a_single_file_is_a_set_of_one(tmp_path):
    (source,) = index_scans(scan(tmp_path / "p7.nii.gz")).sources
    assert (source.name, source.subject) == ("p7.nii.gz", "p7")
    with pytest.raises(DataError, match="single scan without labels"):
        index_scans(tmp_path / "p7.nii.gz", labelled=True)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: None, r"does not exist\s+Give a folder"),
        (lambda p: p.mkdir(), "holds no files"),
        (lambda p: (p / "a" / "b").mkdir(parents=True), "holds no files"),
        (
            lambda p: (p.mkdir(), (p / "a.txt").touch()),
            r"holds nothing usable\s+1 file passed over",
        ),
        (lambda p: p.symlink_to("absent"), "is a broken link"),
        (lambda p: os.mkfifo(p), "is neither a file nor a folder"),
        (lambda p: p.write_text("x"), "is no scan and no manifest"),
        (
            lambda p: (p.mkdir(), (p / "x.nii").symlink_to("gone.nii")),
            "is a link that leads nowhere",
        ),
    ],
)
def test_nothing_usable_says_what_was_seen(tmp_path, make, says):
    make(tmp_path / "scans")
    with pytest.raises(DataError, match=says) as error:
        index_scans(tmp_path / "scans")
    assert error.value.remedy
    assert error.value.exit_code == 2


@pytest.mark.parametrize("name", ["\0", "x" * 5000])
def test_what_is_no_path_is_a_clear_error(name):
    with pytest.raises(DataError):
        index_scans(name)


def test_archives_are_to_be_unpacked(tmp_path):
    (tmp_path / "scans.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="Unpack it"):
        index_scans(tmp_path / "scans.zip")


def test_symlink_loops_end(tmp_path):
    scan(tmp_path / "p1/a.nii")
    (tmp_path / "p1/loop").symlink_to(tmp_path)
    index = index_scans(tmp_path)
    assert len(index.sources) == 1
    assert "p1/loop" in index.notes[0]


def test_classes_taken_for_people_are_doubted(tmp_path):
    for number in range(45):
        picture(tmp_path / ("ill" if number % 2 else "well") / f"{number}.png")
    assert any("only 2 subjects for 45 scans" in note for note in index_scans(tmp_path).notes)


def test_files_named_like_masks_are_doubted(tmp_path):
    scan(tmp_path / "a.nii.gz")
    scan(tmp_path / "a_seg.nii.gz")
    assert any("1 of the scans may be masks" in note for note in index_scans(tmp_path).notes)


# --- masks beside images ---------------------------------------------------------------------------------------------


@pytest.fixture
def pairs(tmp_path):
    for part in ("train", "test"):
        for number in (1, 2):
            scan(tmp_path / part / "images" / f"{part}{number}.nii.gz")
            scan(tmp_path / part / "labels" / f"{part}{number}.nii.gz")
    return tmp_path


def test_masks_are_paired_by_stem_at_any_depth(pairs):
    (pairs / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "tail": 2}}))
    index = index_scans(pairs, labelled=True)
    assert len(index.sources) == 4
    for source in index.sources:
        assert source.mask is not None
        assert str(source.mask.path) == str(source.channels[0].path).replace("/images/", "/labels/")
    assert index.label_names == {0: "background", 2: "tail"}
    assert [source.split for source in index.sources] == ["test", "test", "train", "train"]


def test_masks_are_not_scans_without_labels_either(pairs):
    index = index_scans(pairs)
    assert len(index.sources) == 4
    assert all(source.mask is None for source in index.sources)
    assert any("4 masks in test/labels, train/labels" in note for note in index.notes)


def test_masks_of_another_format_and_images_at_the_top(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "masks/a.tif")
    (source,) = index_scans(tmp_path, labelled=True).sources
    assert source.mask is not None
    assert source.mask.format == "tiff"


def test_images_and_masks_without_a_partner_are_named(pairs):
    (pairs / "train/labels/train1.nii.gz").unlink()
    scan(pairs / "train/labels/stray.nii.gz")
    scan(pairs / "train/labels/train2.nii")
    index = index_scans(pairs, labelled=True)
    reasons = "\n".join(row.reason for row in index.quarantine)
    assert "train/images/train1.nii.gz has no mask of equal stem" in reasons
    assert "train/labels/stray.nii.gz has no image of equal stem" in reasons
    assert "train/images/train2.nii.gz has 2 masks" in reasons
    assert [source.name for source in index.sources] == [
        "test/images/test1.nii.gz",
        "test/images/test2.nii.gz",
    ]


def test_two_images_of_one_stem_share_no_mask(tmp_path):
    scan(tmp_path / "images/a.nii")
    scan(tmp_path / "images/a.nii.gz")
    scan(tmp_path / "labels/a.nii.gz")
    index = index_scans(tmp_path, labelled=True)
    assert len(index.sources) == 1
    assert "second image" in index.quarantine[0].reason


def test_a_folder_called_labels_with_nothing_beside_holds_scans(tmp_path):
    scan(tmp_path / "labels/a.nii.gz")
    assert len(index_scans(tmp_path).sources) == 1


def test_labelled_without_masks_says_what_is_needed(tmp_path):
    scan(tmp_path / "a.nii")
    with pytest.raises(DataError, match=r"has no labelled scans\s+Give a folder with images/"):
        index_scans(tmp_path, labelled=True)


# --- BIDS ------------------------------------------------------------------------------------------------------------


def test_bids_names_give_subject_session_and_contrast(tmp_path):
    (tmp_path / "dataset_description.json").write_text("{}")
    scan(tmp_path / "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz")
    scan(tmp_path / "sub-01/ses-b/anat/sub-01_ses-b_FLAIR.nii.gz")
    scan(tmp_path / "sub-02/func/sub-02_task-rest_bold.nii.gz")
    scan(tmp_path / "derivatives/fs/sub-01/anat/sub-01_T1w.nii.gz")
    scan(tmp_path / "sub-02/anat/sub-02_mask.nii.gz")
    index = index_scans(tmp_path)
    assert index.layout == "bids"
    assert owners(index) == {
        "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz": ("sub-01", "sub-01/ses-a"),
        "sub-01/ses-b/anat/sub-01_ses-b_FLAIR.nii.gz": ("sub-01", "sub-01/ses-b"),
        "sub-02/func/sub-02_task-rest_bold.nii.gz": ("sub-02", "sub-02"),
    }
    assert [source.modality for source in index.sources] == ["T1w", "FLAIR", "bold"]
    assert any("1 images outside the folders sub-…" in note for note in index.notes)


def test_bids_is_recognised_without_its_description(tmp_path):
    scan(tmp_path / "sub-01/anat/sub-01_T1w.nii.gz")
    assert index_scans(tmp_path).layout == "bids"


def test_folders_that_merely_begin_with_sub_are_plain(tmp_path):
    scan(tmp_path / "sub-01/t1.nii.gz")
    assert index_scans(tmp_path).layout == "folder"
    assert index_scans(tmp_path).subjects == ("sub-01",)


def test_bids_without_scans_and_bids_as_labelled(tmp_path):
    (tmp_path / "dataset_description.json").write_text("{}")
    (tmp_path / "sub-01/anat").mkdir(parents=True)
    (tmp_path / "sub-01/anat/sub-01_T1w.json").write_text("{}")
    with pytest.raises(DataError, match="holds nothing usable"):
        index_scans(tmp_path)
    scan(tmp_path / "sub-01/anat/sub-01_T1w.nii.gz")
    with pytest.raises(DataError, match=r"BIDS data set.*\s+Give a manifest"):
        index_scans(tmp_path, labelled=True)


# --- nnU-Net ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def nnunet(tmp_path):
    about = {
        "channel_names": {"0": "T1", "1": "FLAIR"},
        "labels": {"background": 0, "lesion": 1, "whole": [1, 2]},
        "file_ending": ".nii.gz",
    }
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    for case in ("c1", "c2"):
        for channel in (0, 1):
            scan(tmp_path / "imagesTr" / f"{case}_{channel:04d}.nii.gz")
        scan(tmp_path / "labelsTr" / f"{case}.nii.gz")
    for channel in (0, 1):
        scan(tmp_path / "imagesTs" / f"c3_{channel:04d}.nii.gz")
    return tmp_path


def test_nnunet_channels_are_joined_and_labels_named(nnunet):
    index = index_scans(nnunet, labelled=True)
    assert index.layout == "nnunet"
    assert [source.name for source in index.sources] == ["imagesTr/c1", "imagesTr/c2"]
    first = index.sources[0]
    assert [file.path.name for file in first.channels] == ["c1_0000.nii.gz", "c1_0001.nii.gz"]
    assert first.modality == "T1;FLAIR"
    assert first.mask is not None
    assert first.split is None
    assert index.label_names == {0: "background", 1: "lesion"}
    assert any("'whole'" in note for note in index.notes)


def test_nnunet_scans_without_labels_include_the_test_images(nnunet):
    index = index_scans(nnunet)
    assert [(source.subject, source.split) for source in index.sources] == [
        ("c1", "train"),
        ("c2", "train"),
        ("c3", "test"),
    ]


def test_nnunet_missing_channels_and_masks_are_named(nnunet):
    (nnunet / "imagesTr/c1_0001.nii.gz").unlink()
    (nnunet / "labelsTr/c2.nii.gz").unlink()
    scan(nnunet / "labelsTr/c9.nii.gz")
    scan(nnunet / "imagesTr/c4_0000.nii.gz")
    scan(nnunet / "imagesTr/c4_0001.nii.gz")
    scan(nnunet / "labelsTr/c4.nii.gz")
    index = index_scans(nnunet, labelled=True)
    reasons = "\n".join(row.reason for row in index.quarantine)
    assert "imagesTr/c1 has the channels 0000, but dataset.json names 2" in reasons
    assert "imagesTr/c2 has no mask in labelsTr" in reasons
    assert "labelsTr/c9.nii.gz has no image" in reasons
    assert index.subjects == ("c4",)


def test_decathlon_names_without_channels(tmp_path):
    (tmp_path / "dataset.json").write_text(
        '{"modality": {"0": "MRI"}, "labels": {"0": "bg", "1": "x"}}'
    )
    scan(tmp_path / "imagesTr/h_001.nii.gz")
    scan(tmp_path / "labelsTr/h_001.nii.gz")
    index = index_scans(tmp_path, labelled=True)
    assert index.subjects == ("h_001",)
    assert index.label_names == {0: "bg", 1: "x"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read"),
        ("[]", "no JSON object"),
        ('{"labels": 3}', "no object"),
        ('{"labels": {"a": "b"}}', "no pair of a name and a whole number"),
        ('{"labels": {"a": 1.5}}', "no pair"),
    ],
)
def test_a_broken_dataset_json_is_named(nnunet, text, says):
    (nnunet / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=says):
        index_scans(nnunet)


# --- DICOM -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def dicom_folder(tmp_path, broken):
    for visit in ("v1", "v2"):
        folder = tmp_path / "scans" / visit
        folder.mkdir(parents=True)
        for number in range(4):
            broken.dicom(
                folder / f"{number}.dcm",
                StudyInstanceUID=f"1.2.3.{visit[1]}",
                SeriesInstanceUID=f"1.2.3.{visit[1]}.1",
                SOPInstanceUID=f"1.2.3.{visit[1]}.1.{number + 1}",
                ImagePositionPatient=[0.0, 0.0, 2.5 * number],
                ImageOrientationPatient=[1.0, 0, 0, 0, 1, 0],
            )
    return tmp_path / "scans"


def test_dicom_series_are_scans_and_patients_pseudonyms(dicom_folder, broken):
    scan(dicom_folder / "p2/ct.nii")
    index = index_scans(dicom_folder)
    assert [source.name for source in index.sources] == ["p2/ct.nii", "v1", "v2"]
    first, second = index.sources[1:]
    assert len(first.channels[0].paths) == 4
    assert first.subject == second.subject != ""
    assert first.study != second.study
    assert first.modality == "CT"
    assert "pseudonym" in index.rule
    text = repr(index)
    assert not any(value in text for value in broken.PATIENT.values())


def test_one_patient_in_rows_of_a_manifest_is_one_subject(dicom_folder):
    manifest = dicom_folder / "scans.csv"
    manifest.write_text("image\nv1\nv2\n")
    index = index_scans(manifest)
    assert len(index.sources) == 2
    assert len(index.subjects) == 1


def test_groups_are_remembered_while_files_stay(dicom_folder, tmp_path, monkeypatch, broken):
    from unlabeled.data import grouping

    monkeypatch.setattr(grouping, "SAVED_FROM", 1)
    (dicom_folder / "v1/bad.dcm").write_bytes(b"\0" * 200)
    calls = []
    monkeypatch.setattr(
        grouping, "group_series", lambda paths: calls.append(1) or group_series(paths)
    )
    first = index_scans(dicom_folder, cache=tmp_path / "cache")
    again = index_scans(dicom_folder, cache=tmp_path / "cache")
    assert len(calls) == 1
    assert again == first
    assert first.quarantine[0].name == "v1/bad.dcm"
    for saved in (tmp_path / "cache").rglob("*.series"):
        text = saved.read_text()
        assert "bad.dcm" not in text
        assert not any(value in text for value in broken.PATIENT.values())
        saved.write_text("{")
    (dicom_folder / "v2/3.dcm").unlink()
    assert (
        len(index_scans(dicom_folder, cache=tmp_path / "cache").sources[-1].channels[0].paths) == 3
    )
    assert len(calls) == 2


# --- many files ------------------------------------------------------------------------------------------------------


def test_very_many_files_give_the_same_sources_lazily(tmp_path, monkeypatch):
    monkeypatch.setattr(walk, "SAVED_FROM", 1)
    for number in range(30):
        path = (
            tmp_path
            / f"scans/p{number % 7}/v{number % 2}/{number}.{'PNG' if number % 3 else 'nii.gz'}"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    plain = index_scans(tmp_path / "scans", cache=tmp_path / "cache")
    assert isinstance(plain.sources, tuple)
    monkeypatch.setattr(indexing, "LAZY_FROM", 5)
    lazy = index_scans(tmp_path / "scans", cache=tmp_path / "cache")
    assert not isinstance(lazy.sources, tuple)
    assert lazy.sources == plain.sources
    assert tuple(lazy.sources[3:9]) == plain.sources[3:9]
    assert lazy.sources[-1] == plain.sources[-1]
    assert lazy.subjects == plain.subjects
    assert lazy.sources != plain.sources[:-1]
    assert lazy.sources != "x"


def test_whatever_is_broken_is_indexed_or_named(tmp_path, broken, broken_name):
    folder = tmp_path / "scans"
    folder.mkdir()
    broken.CASES[broken_name].make(folder)
    names = set()
    with suppress(DataError):  # which says why; see the tests of messages above
        index = index_scans(folder)
        names = {source.name for source in index.sources} | {row.name for row in index.quarantine}
        assert index.sources
    if broken.CASES[broken_name].ends == "read":
        assert names
