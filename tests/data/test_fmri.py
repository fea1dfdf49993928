"""Runs, responses and their reliability, and how a manifest names them."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unlabeled.data import fmri
from unlabeled.data.headers import Seen, look
from unlabeled.data.index import index_scans
from unlabeled.data.intensity import IntensityRule
from unlabeled.data.scan import Recording, ScanFile, Source
from unlabeled.data.store import Store
from unlabeled.errors import DataError, ScanError


@pytest.fixture
def study(tmp_path) -> Path:
    """Two pictures, a run of five samples of six voxels and a run of one sample."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog", "sky"):
        Image.fromarray(rng.integers(0, 256, (10, 12, 3), np.uint8)).save(tmp_path / f"{name}.png")
    np.save(tmp_path / "run1.npy", rng.normal(5, 3, (5, 6)))
    np.save(tmp_path / "run2.npy", rng.normal(-5, 1, (4, 6)).astype(np.float32))
    np.save(tmp_path / "mean.npy", rng.normal(0, 1, 6))
    return tmp_path


def write(folder: Path, *rows: str, header: str = "image,response,split") -> Path:
    path = folder / "pairs.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def heard(path: Path, sample: int | None = None, kind: str = "npy") -> Source:
    file = ScanFile((path,), kind)
    return Source(name="r", channels=(file,), subject="p", responses=(Recording(file, sample),))


@given(seed=st.integers(0, 2**31), samples=st.integers(2, 40), scale=st.floats(1e-3, 1e4))
def test_runs_are_standardised_voxel_by_voxel(seed, samples, scale):
    run = np.random.default_rng(seed).normal(scale, scale, (samples, 5))
    made = fmri.standardise(run)
    np.testing.assert_allclose(made.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(made.std(0), 1, atol=1e-4)


def test_a_voxel_that_never_changes_becomes_zero_and_a_lone_sample_stays():
    run = np.array([[1.0, 0.1], [3.0, 0.1], [5.0, 0.1]])
    assert fmri.standardise(run)[:, 1].tolist() == [0, 0, 0]
    assert fmri.standardise(run[:1]).tolist() == run[:1].astype(np.float32).tolist()


def test_reliability_equals_the_published_code(golden):
    arrays = np.load(golden / "fmri-reconstruction" / "snr.npz")
    stimuli = [arrays["Y_test"][arrays["labels"] == each] for each in range(6)]
    for by_sample in (False, True):  # balanced repeats: both are the same
        found = fmri.reliability(stimuli, by_sample=by_sample)
        np.testing.assert_allclose(found, arrays["snr_normalised"], rtol=1e-5)


def test_unbalanced_repeats_are_weighed_by_stimulus_or_by_sample():
    rng = np.random.default_rng(0)
    stimuli = [rng.normal(0, 1, (count, 7)) * spread for count, spread in ((2, 1), (9, 3), (4, 2))]
    signal = np.stack([each.mean(0) for each in stimuli]).var(0)
    for by_sample in (False, True):
        rows = [each.var(0) for each in stimuli for _ in range(len(each) if by_sample else 1)]
        expected = signal / np.mean(rows, axis=0)
        found = fmri.reliability(stimuli, by_sample=by_sample)
        np.testing.assert_allclose(found, expected / expected.mean(), rtol=1e-5)
        assert found.mean() == pytest.approx(1, abs=1e-5)


def test_without_repeats_every_voxel_counts_alike():
    assert fmri.reliability([np.ones((1, 4)), np.zeros((1, 4))]).tolist() == [1, 1, 1, 1]
    assert fmri.reliability([np.zeros((3, 2)), np.zeros((3, 2))]).tolist() == [1, 1]
    assert fmri.reliability([]).shape == (0,)


def test_pairs_loose_pictures_and_loose_responses_are_told_apart(study):
    index = index_scans(
        write(study, "cat.png,run1.npy#0;run2.npy#3,test", "sky.png,,train", ",run1.npy#2,train")
    )
    by_name = {source.name: source for source in index.sources}
    assert set(by_name) == {"cat.png", "sky.png", "run1.npy#2"}
    pair, picture, response = by_name["cat.png"], by_name["sky.png"], by_name["run1.npy#2"]
    assert [one.sample for one in pair.responses] == [0, 3]
    assert (bool(pair.responses), pair.is_response) == (True, False)
    assert (picture.responses, picture.is_response) == ((), False)
    assert response.is_response
    assert pair.subject == response.subject == "person"
    assert "responses of no subject are of one person" in index.rule


def test_the_store_keeps_standardised_responses_beside_the_picture(study):
    index = index_scans(write(study, "cat.png,run1.npy#4;run2.npy#0,", ",run1.npy#1,"))
    records = Store(study / "cache").prepare(index.sources, rule=IntensityRule()).records
    pair, response = records
    runs = [fmri.standardise(np.load(study / name)) for name in ("run1.npy", "run2.npy")]
    kept = pair.extras[fmri.RESPONSES].whole()
    np.testing.assert_array_equal(kept, np.stack([runs[0][4], runs[1][0]])[None])
    assert (pair.channels, pair.space) == (3, (10, 12))
    assert (response.channels, response.space, response.dims) == (1, (1, 6), 2)
    np.testing.assert_array_equal(response.extras[fmri.RESPONSES].whole()[0, 0], runs[0][1])
    assert response.modality == "fMRI"


def test_another_sample_or_a_changed_run_is_another_entry(study):
    def keys(*rows):
        index = index_scans(write(study, *rows))
        prepared = Store(study / "cache").prepare(index.sources, rule=IntensityRule())
        return [record.key for record in prepared.records]

    first, second = keys("cat.png,run1.npy#0,", "cat.png,run1.npy#1,")
    assert first != second
    np.save(study / "run1.npy", np.zeros((9, 6)))
    assert not {first, second} & set(keys("cat.png,run1.npy#0,", "cat.png,run1.npy#1,"))


def test_one_picture_may_stand_in_several_rows(study):
    index = index_scans(write(study, "cat.png,run1.npy#0,", "cat.png,run1.npy#1,"))
    assert [source.name for source in index.sources] == ["cat.png", "cat.png;run1.npy#1"]
    assert not index.quarantine


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (("cat.png,run9.npy#0,",), "names the response run9.npy, which does not exist"),
        (("cat.png,dog.png,",), "neither npy nor NIfTI"),
        (("cat.png,run1.npy#0,", ",run1.npy#0,"), "names a response of line 2"),
        (("cat.png,run1.npy#0;run1.npy#0,",), "names one response twice"),
        ((",,train",), "has no image"),
    ],
)
def test_a_wrong_row_is_left_out_with_its_reason(study, rows, reason):
    path = write(study, *rows, "sky.png,,")
    (row,) = index_scans(path).quarantine
    assert reason in row.reason
    assert row.remedy


def test_a_table_needs_pictures_or_responses(study):
    assert (
        len(index_scans(write(study, "run1.npy#0", "run1.npy#1", header="response")).sources) == 2
    )
    with pytest.raises(DataError, match="no column `image`"):
        index_scans(write(study, "cat.png", header="picture"))


def test_wrong_runs_are_named_with_what_to_type(study):
    np.save(study / "cube.npy", np.zeros((2, 3, 4)))
    np.save(study / "nan.npy", np.array([[1.0, np.nan], [2.0, 3.0]]))
    np.save(study / "words.npy", np.array([["a", "b"]]))
    for name, sample, says in [
        ("run1.npy", None, "5 samples.*does not say which\n  Name one: run1.npy#0"),
        ("run1.npy", 5, "has 5 samples.*names sample 5\n.*run1.npy#4"),
        ("cube.npy", 0, "samples x voxels"),
        ("words.npy", 0, "samples x voxels"),
        ("nan.npy", 0, "not finite"),
        ("gone.npy", 0, "does not exist"),
    ]:
        with pytest.raises(ScanError, match=f"(?s){says}"):
            fmri.read_responses(heard(study / name, sample))
    assert fmri.read_responses(heard(study / "mean.npy")).shape == (1, 1, 6)


def test_repeats_must_have_the_same_voxels(study):
    np.save(study / "other.npy", np.ones(7))
    files = [ScanFile((study / name,), "npy") for name in ("mean.npy", "other.npy")]
    source = Source(
        name="r", channels=files[:1], subject="p", responses=tuple(map(Recording, files))
    )
    with pytest.raises(ScanError, match=r"other\.npy has 7 voxels, and .*mean\.npy has 6"):
        fmri.read_responses(source)


def test_a_region_cuts_voxels_out_of_volumes(tmp_path):
    rng = np.random.default_rng(0)
    run = rng.integers(0, 500, (4, 3, 1, 9)).astype(np.int16)
    inside = rng.random((4, 3)) < 0.5
    nibabel.save(nibabel.Nifti1Image(run, np.eye(4)), tmp_path / "run.nii.gz")
    mask = nibabel.Nifti1Image(inside[..., None].astype(np.uint8), np.eye(4))
    nibabel.save(mask, tmp_path / "region.nii.gz")
    path = write(tmp_path, ",run.nii.gz#2,region.nii.gz", header="image,response,region")
    (source,) = index_scans(path).sources
    expected = fmri.standardise(run.astype(np.float32)[inside].reshape(int(inside.sum()), 9).T)[2]
    np.testing.assert_array_equal(fmri.read_responses(source)[0, 0], expected)
    whole = heard(tmp_path / "run.nii.gz", 2, "nifti")
    assert fmri.read_responses(whole).shape == (1, 1, 12)
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 1)), np.eye(4)), tmp_path / "region.nii.gz")
    with pytest.raises(ScanError, match="Resample the region"):
        fmri.read_responses(source)


def test_real_runs_of_a_real_region(shared_data):
    folder = shared_data / "fmri-haxby"
    region = ScanFile((folder / "mask25mm_gray.nii.gz",), "nifti")
    file = ScanFile((folder / "run01_bold_25mm.nii.gz",), "nifti")
    for sample in (0, 120):
        source = Source(
            name="r",
            channels=(file,),
            subject="p",
            responses=(Recording(file, sample),),
            region=region,
        )
        response = fmri.read_responses(source)
        voxels = int((nibabel.load(region.path).get_fdata() > 0).sum())
        assert response.shape == (1, 1, voxels)
        assert 0.2 < float(response.std()) < 5


@pytest.mark.parametrize("deep", [False, True])
def test_check_looks_at_responses(study, deep):
    index = index_scans(write(study, "cat.png,run1.npy#0,", ",mean.npy,", ",run1.npy#7,"))
    found = {source.name: look(source, deep=deep) for source in index.sources}
    response = found["mean.npy"]
    assert isinstance(response, Seen)
    assert (response.shape, response.modality) == ((1, 6), "fMRI")
    assert isinstance(found["cat.png"], Seen)
    assert not isinstance(found["run1.npy#7"], Seen)
