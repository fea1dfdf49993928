"""What the store keeps of a scan: types, statistics, foreground, spacing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlabeled.data.headers import Seen, look
from unlabeled.data.intensity import IntensityRule, Rescaling
from unlabeled.data.preparation import (
    Recipe,
    labelled_voxels,
    prepare_scan,
    prepare_source,
    smallest_type,
)
from unlabeled.data.resampling import Resampling, resample
from unlabeled.data.scan import Grid, Scan, ScanFile, Source
from unlabeled.errors import ScanError


def scan(array: np.ndarray, **facts: object) -> Scan:
    known: dict[str, object] = {"spacing": None, "affine": None, "modality": "MR"}
    return Scan(array=array, grid=Grid(array.shape[1:], None), **(known | facts))  # type: ignore[arg-type]


def smooth(space: tuple[int, ...] = (20, 24, 30)) -> np.ndarray:
    grid = np.meshgrid(*(np.arange(edge) for edge in space), indexing="ij")
    return sum((n + 1) * axis for n, axis in enumerate(grid))[None].astype(np.int16)


@pytest.mark.parametrize(
    ("values", "kept"),
    [([0, 255], "uint8"), ([-1, 5], "int8"), ([-1024.0, 3071.0], "int16"), ([0.5, 1], "float32")],
)
def test_whole_numbers_take_the_smallest_type(values: list[float], kept: str) -> None:
    assert smallest_type(np.array(values)).dtype == kept
    assert np.array_equal(smallest_type(np.array(values)), values)


def test_numbers_that_are_not_finite_are_refused_and_counted() -> None:
    array = np.ones((1, 9, 9, 9), np.float32)
    array[0, 1, 2, :3] = np.nan
    with pytest.raises(ScanError, match="3 voxels that are not finite"):
        prepare_scan(scan(array), None, Recipe())


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_statistics_are_those_of_the_foreground(dtype: type) -> None:
    rng = np.random.default_rng(0)
    array = np.zeros((1, 40, 40, 40), dtype)
    inside = rng.normal(500, 60, (30, 20, 10))
    array[0, 5:35, 10:30, 20:30] = np.rint(inside) if dtype is np.int16 else inside
    about, _ = prepare_scan(scan(array, slope=2.0, intercept=-7.0), None, Recipe())
    voxels = array[array > 0] * 2.0 - 7.0
    (found,) = about.statistics
    assert about.foreground == ((5, 35), (10, 30), (20, 30))
    assert found.mean == pytest.approx(voxels.mean(), rel=1e-5)
    assert found.std == pytest.approx(voxels.std(), rel=1e-4)
    for percent in (0, 0.5, 50, 99.5, 100):
        assert found.percentile(percent) == pytest.approx(np.percentile(voxels, percent), rel=1e-5)
    clipped = np.clip(voxels, 900, 1050)
    mean, std = found.clipped(900, 1050)
    assert mean == pytest.approx(clipped.mean(), rel=1e-3)
    assert std == pytest.approx(clipped.std(), rel=1e-2)


def test_ct_is_windowed_in_hounsfield_units_and_its_foreground_is_the_body() -> None:
    array = np.full((1, 30, 30, 30), 24, np.int16)  # -1000 HU
    array[0, 10:20, 5:25, 8:9] = 1064  # 40 HU
    about, _ = prepare_scan(scan(array, modality="CT", intercept=-1024.0), None, Recipe())
    assert about.foreground == ((10, 20), (5, 25), (8, 9))
    rescaling = Rescaling.under(IntensityRule(), about.statistics[0])
    assert (rescaling.low, rescaling.high) == (-1000.0, 1000.0)


def test_registered_modalities_have_windows_of_their_own_and_colours_share_one() -> None:
    array = np.stack([smooth()[0], 100 * smooth()[0]])
    two, _ = prepare_scan(scan(array, modality="MR;PT"), None, Recipe(), groups=2)
    assert [part.modality for part in two.statistics] == ["MR", "PT"]
    assert two.statistics[1].mean > 90 * two.statistics[0].mean
    one, _ = prepare_scan(scan(array), None, Recipe(), groups=1)
    assert [part.channels for part in one.statistics] == [2]


@pytest.mark.parametrize("value", [0, -5, 700])
def test_a_constant_scan_is_prepared(value: int) -> None:
    about, arrays = prepare_scan(scan(np.full((1, 8, 8, 8), value, np.int16)), None, Recipe())
    assert about.foreground == ((0, 8),) * 3
    rescaling = Rescaling.under(IntensityRule(), about.statistics[0])
    assert rescaling.width == 1.0
    assert (arrays["image"] == value).all()


def test_a_falling_slope_is_turned() -> None:
    about, arrays = prepare_scan(scan(smooth(), slope=-2.0, intercept=1.0), None, Recipe())
    assert about.slope == 2.0
    assert np.array_equal(arrays["image"] * 2.0 + 1.0, smooth() * -2.0 + 1.0)


@given(
    space=st.tuples(*[st.integers(1, 12)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 5)] * 3),
    wanted=st.tuples(*[st.floats(0.3, 5)] * 3),
)
def test_resampling_keeps_the_centre_in_the_world(
    space: tuple[int, ...], spacing: tuple[float, ...], wanted: tuple[float, ...]
) -> None:
    plan = Resampling.between(space, spacing, wanted)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (5, -7, 11)
    middle = [*((np.array(space) - 1) / 2), 1]
    new_middle = [*((np.array(plan.new) - 1) / 2), 1]
    moved = plan.affine(affine)
    assert moved @ new_middle == pytest.approx(affine @ middle)
    assert np.diag(moved)[:3] == pytest.approx(wanted)


def test_linear_intensities_stay_linear_and_masks_keep_their_labels() -> None:
    image = 10 * smooth()  # linear, so that interpolation is exact but for rounding
    whole = scan(image, spacing=(1.0, 1.0, 2.0), affine=np.diag([1.0, 1, 2, 1]))
    mask = np.zeros(image.shape[1:], np.uint8)
    mask[6:14, 4:20, 10:20] = 7
    new, new_mask = resample(whole, mask, (1.5, 1.0, 1.0))
    assert new.array.shape == (1, 13, 24, 60)
    assert new.array.dtype == np.int16
    assert new_mask is not None
    assert set(np.unique(new_mask)) == {0, 7}
    at = np.linalg.inv(whole.affine) @ new.affine @ [4, 9, 33, 1]  # type: ignore[operator]
    assert new.array[0, 4, 9, 33] == pytest.approx(10 * (at[0] + 2 * at[1] + 3 * at[2]), abs=0.51)
    share = (mask > 0).sum() * 2.0, (new_mask > 0).sum() * 1.5
    assert share[1] == pytest.approx(share[0], rel=0.15)


def test_resampling_needs_a_spacing_and_as_many_edges() -> None:
    with pytest.raises(ScanError, match="no voxel spacing"):
        prepare_scan(scan(smooth()), None, Recipe(spacing=(1, 1, 1)))
    with pytest.raises(ScanError, match="3 axes"):
        prepare_scan(scan(smooth(), spacing=(1.0,) * 3), None, Recipe(spacing=(1, 1)))


def test_extras_of_a_method_lie_beside_the_image() -> None:
    def regions(one: Scan) -> Scan:
        return replace(one, extras={"regions": one.array[0] // 10})

    _, arrays = prepare_scan(scan(smooth()), None, Recipe(prepare=regions))
    assert np.array_equal(arrays["extra:regions"], smooth() // 10)


def test_labelled_voxels_are_spread_over_each_label() -> None:
    mask = np.zeros((50, 50, 50), np.int16)
    mask[:40] = 3
    mask[49, 49, 49] = 1
    rows = labelled_voxels(mask)
    assert np.array_equal(mask[tuple(rows[:, 1:].T)], rows[:, 0])
    assert (rows[:, 0] == 1).sum() == 1
    assert np.ptp(rows[rows[:, 0] == 3, 1]) >= 38


def test_a_mask_of_several_frames_gives_the_frame_of_its_scan(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    voxels = rng.integers(0, 900, (9, 10, 11, 3)).astype(np.int16)
    labels = rng.integers(0, 4, voxels.shape).astype(np.uint8)
    files = {}
    for name, array in (("scan", voxels), ("mask", labels)):
        path = tmp_path / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(array, np.diag([1.0, 2.0, 3.0, 1.0])), path)
        files[name] = ScanFile((path,), "nifti")
    for frame in range(3):
        source = Source(
            name="scan.nii.gz",
            channels=(files["scan"],),
            subject="a",
            mask=files["mask"],
            frame=frame,
        )
        _, arrays = prepare_source(source, Recipe())
        assert np.array_equal(arrays["image"][0], voxels[..., frame])
        assert np.array_equal(arrays["mask"][0], labels[..., frame])
        seen = look(source, deep=True)
        assert isinstance(seen, Seen)
        assert seen.labels == frozenset(np.unique(labels[..., frame]).tolist())
