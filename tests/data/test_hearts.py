"""Studies of hearts: views are told apart by name or place, sides by the patient, and what is missing is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from unlabeled.data.hearts import (
    Heart,
    HeartViews,
    Toward,
    studies,
    view_named,
)
from unlabeled.data.index import index_scans
from unlabeled.data.intensity import IntensityRule
from unlabeled.data.planes import ParallelPlanesError, Plane
from unlabeled.data.slices import slice_axis
from unlabeled.data.store import Store
from unlabeled.demo.hearts import draw_body, view, write_hearts
from unlabeled.demo.phantoms import write_manifest
from unlabeled.errors import DataError, OptionError, ScanError
from unlabeled.transforms.positions import NineBoxes

NAMES = {"sa": "sa", "2ch": "la_2ch", "4ch": "la_4ch"}


def records_of(root: Path, cache: Path) -> tuple[Any, ...]:
    done = Store(cache).prepare(index_scans(root).sources, rule=IntensityRule())
    assert not done.quarantine
    return tuple(done.records)


def write(folder: Path, names: dict[str, str], seed: int = 0, **how: Any) -> None:
    """Write one study under names of our own."""
    folder.mkdir(parents=True, exist_ok=True)
    body = draw_body(seed)
    for across, name in names.items():
        image, _, affine = view(body, across, seed, **how)
        nib.save(
            nib.Nifti1Image((image * 1000).astype(np.int16), affine), folder / f"{name}.nii.gz"
        )


@pytest.fixture
def study(tmp_path):
    def made(names: dict[str, str] = NAMES, seed: int = 0, **how: Any):
        place = tmp_path / f"scans of {'-'.join(names.values())}"
        write(place / "p1", names, seed, **how)
        return records_of(place, tmp_path / "cache")

    return made


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("p/la_4ch.nii.gz", "4-chamber"),
        ("p/cine 2 chamber.dcm", "2-chamber"),
        ("p/pig_sax_cine.nii.gz#3", "short-axis"),
        ("p/la_3ch.nii.gz", "other"),
        ("sag/usa12.nii.gz", ""),
        ("short_axis/7.nii.gz", "short-axis"),
    ],
)
def test_views_are_named(name, said) -> None:
    assert view_named(name) == said


def test_crossings_lie_in_the_left_ventricle(study) -> None:
    """The planes of a made-up heart meet in its middle, slice for slice."""
    records = study(shift=9.0)
    (item,) = HeartViews().images(records)
    body = draw_body(0)
    assert item.places == tuple(range(6))
    for place, cross in zip(item.places, item.crosses, strict=True):
        plane = Plane.of(item.record.affine, item.record.space, item.across, place)
        point = plane.point(cross.centre) - body.centre
        assert np.linalg.norm(point - body.axes[2] * (point @ body.axes[2])) < 1e-3
        ways = [way @ np.stack([plane.first, plane.second]) for way in cross.ways]
        np.testing.assert_allclose(ways, body.axes[[1, 0]], atol=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_places_tell_what_names_do_not(study, seed) -> None:
    named = HeartViews().images(study(seed=seed))
    unnamed = HeartViews().images(study({"sa": "c", "2ch": "a", "4ch": "b"}, seed=seed))
    assert len(named) == 1
    (item,) = unnamed
    assert item.record.source.name == "p1/c.nii.gz"
    for cross, other in zip(named[0].crosses, item.crosses, strict=True):
        np.testing.assert_allclose(cross.centre, other.centre)
        np.testing.assert_allclose(cross.ways, other.ways)


def test_turning_the_patient_leaves_the_map_unchanged() -> None:
    """All planes and the patient's axes turned together, by anything; or the planes alone, by as much as hearts differ."""
    draw = np.random.default_rng(0)
    body = draw_body(3)
    affines = {name: view(body, name, 3)[2] for name in NAMES}

    def mapped(turn: np.ndarray, *, patient: bool) -> np.ndarray:
        planes = []
        for affine in affines.values():
            moved = np.eye(4)
            moved[:3, :3], moved[:3, 3] = turn @ affine[:3, :3], turn @ affine[:3, 3]
            planes.append(Plane.of(moved, (64, 64, 6), 2, 2))
        sides = [np.asarray(side) for side in vars(Toward()).values()]
        toward = Toward(*(tuple(turn @ side) for side in sides)) if patient else Toward()
        cross = Heart(*planes, toward).cross(planes[0], "short-axis")
        return NineBoxes()(cross, planes[0].spacing, planes[0].space).numpy()

    still = mapped(np.eye(3), patient=True)
    assert set(np.unique(still)) == set(range(10))
    for _ in range(10):
        turn, _ = np.linalg.qr(draw.standard_normal((3, 3)))
        np.testing.assert_array_equal(mapped(turn * np.linalg.det(turn), patient=True), still)
    angle = np.radians(20)
    small = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    np.testing.assert_array_equal(mapped(small, patient=False), still)


@pytest.mark.parametrize("flipped", [(0,), (1,), (0, 1)])
def test_sides_do_not_depend_on_which_way_the_axes_of_an_image_run(flipped) -> None:
    """The same slice with reversed axes: the map is reversed likewise, for sides are the patient's."""
    body = draw_body(3)
    affines = {name: view(body, name, 3)[2] for name in NAMES}
    heart = Heart(*(Plane.of(affine, (64, 64, 6), 2, 2) for affine in affines.values()))
    turned = affines["sa"].copy()
    for axis in flipped:
        turned[:3, 3] += 63 * turned[:3, axis]
        turned[:3, axis] *= -1
    one, other = (Plane.of(affine, (64, 64, 6), 2, 2) for affine in (affines["sa"], turned))
    still, found = (
        NineBoxes()(heart.cross(plane, "short-axis"), plane.spacing, plane.space).numpy()
        for plane in (one, other)
    )
    assert set(np.unique(still)) == set(range(10))
    np.testing.assert_array_equal(np.flip(found, flipped), still)


def test_sides_do_not_depend_on_how_an_image_is_stored(tmp_path) -> None:
    """The same slices stored with axes swapped and reversed: the same point in the world has the same number."""
    body = draw_body(1)
    image, _, affine = view(body, "sa", 1)
    numbers = []
    for order, flips in (((0, 1, 2), ()), ((1, 0, 2), ()), ((0, 1, 2), (0, 2))):
        kept = image.transpose(order)
        placed = affine[:, [*order, 3]].copy()
        for axis in flips:
            kept = np.flip(kept, axis)
            placed[:3, 3] += placed[:3, axis] * (kept.shape[axis] - 1)
            placed[:3, axis] *= -1
        folder = tmp_path / f"{order}{flips}" / "p1"
        write(folder, {"2ch": "la_2ch", "4ch": "la_4ch"}, 1)
        nib.save(nib.Nifti1Image((kept * 1000).astype(np.int16), placed), folder / "sa.nii.gz")
        (item,) = HeartViews().images(records_of(folder.parent, tmp_path / "cache"))
        plane = Plane.of(item.record.affine, item.record.space, item.across, 2)
        within = [n for a, n in enumerate(item.record.space) if a != item.across]
        boxes = NineBoxes()(item.crosses[2], item.spacing, within).numpy()
        places = np.argwhere(boxes > 0)
        worlds = np.array([plane.point(place) for place in places.astype(float)])
        numbers.append(
            {tuple(np.round(w, 1)): boxes[tuple(p)] for w, p in zip(worlds, places, strict=True)}
        )
    for other in numbers[1:]:
        shared = set(other) & set(numbers[0])
        assert len(shared) > 0.9 * len(numbers[0])
        assert all(other[place] == numbers[0][place] for place in shared)


@pytest.mark.parametrize("wanted", ["2-chamber", "4-chamber"])
def test_long_axis_images_are_cut_likewise(study, wanted) -> None:
    records = study(shift=9.0)
    (item,) = HeartViews(view=wanted).images(records)
    (cross,) = item.crosses
    body = draw_body(0)
    plane = Plane.of(item.record.affine, item.record.space, item.across, item.places[0])
    to_base, aside = (way @ np.stack([plane.first, plane.second]) for way in cross.ways)
    side = body.axes[1] if wanted == "2-chamber" else body.axes[0]
    np.testing.assert_allclose(to_base, body.axes[2], atol=1e-5)
    np.testing.assert_allclose(aside, side, atol=1e-5)
    assert view_named(item.record.source.name) == wanted


def test_missing_and_parallel_planes_are_refused_by_the_studys_name(tmp_path) -> None:
    write(tmp_path / "scans" / "whole", NAMES, 0)
    write(tmp_path / "scans" / "lone", {"sa": "sa", "4ch": "la_4ch"}, 1)
    write(tmp_path / "scans" / "flat", {"2ch": "la_2ch", "4ch": "la_4ch"}, 2)
    write(tmp_path / "scans" / "twin", NAMES, 3)
    twin = tmp_path / "scans" / "twin"
    four = nib.load(twin / "la_4ch.nii.gz")
    (twin / "la_2ch.nii.gz").unlink()
    nib.save(nib.Nifti1Image(np.asarray(four.dataobj), four.affine), twin / "la_2ch.nii.gz")
    records = records_of(tmp_path / "scans", tmp_path / "cache")
    refused = HeartViews().refuse(records)
    assert {name.split("/")[0] for name in refused} == {"lone", "flat", "twin"}
    assert "study lone has no 2-chamber plane" in refused["lone/sa.nii.gz"].fact
    assert "--lone-plane perpendicular" in refused["lone/sa.nii.gz"].remedy
    assert "study flat has no stack of short-axis" in refused["flat/la_2ch.nii.gz"].fact
    assert isinstance(refused["twin/sa.nii.gz"], ParallelPlanesError)
    assert refused["twin/sa.nii.gz"].fact.startswith("study twin has")
    assert [item.record.subject for item in HeartViews().images(records)] == ["whole"]


def test_a_lone_plane_gets_one_at_right_angles(study) -> None:
    records = study({"sa": "sa", "4ch": "la_4ch"}, seed=5, shift=0.0, turn=0.0)
    (item,) = HeartViews(lone_plane="perpendicular").images(records)
    body = draw_body(5)
    cross = item.crosses[2]
    plane = Plane.of(item.record.affine, item.record.space, item.across, 2)
    point = plane.point(cross.centre) - body.centre
    assert np.linalg.norm(point - body.axes[2] * (point @ body.axes[2])) < 1e-3
    np.testing.assert_allclose(cross.ways[0] @ cross.ways[1], 0, atol=1e-6)


def test_landmarks_stand_for_planes(study, tmp_path) -> None:
    records = study({"sa": "sa", "2ch": "x_lvot"}, seed=4)
    body = draw_body(4)
    left, right = body.centre + 7 * body.axes[2], body.centre + 40 * body.axes[0]
    marks = dict(
        zip(("lv_x", "lv_y", "lv_z", "rv_x", "rv_y", "rv_z"), [*left, *right], strict=True)
    )
    file = write_manifest(tmp_path / "marks.csv", [{"study": "p1", **marks}])
    (item,) = HeartViews(landmarks=str(file)).images(records)
    plane = Plane.of(item.record.affine, item.record.space, item.across, 3)
    point = plane.point(item.crosses[3].centre) - body.centre
    assert np.linalg.norm(point - body.axes[2] * (point @ body.axes[2])) < 1e-3
    np.testing.assert_allclose(
        item.crosses[3].ways[1] @ np.stack([plane.first, plane.second]), body.axes[0], atol=1e-5
    )
    with pytest.raises(OptionError, match="cannot be read"):
        HeartViews(landmarks=str(tmp_path / "none.csv")).images(records)
    broken = write_manifest(tmp_path / "broken.csv", [{"study": "p1", "lv_x": "?"}])
    with pytest.raises(DataError, match="line 2"):
        HeartViews(landmarks=str(broken)).images(records)


def test_only_the_middle_of_a_stack_is_taken_where_asked(study) -> None:
    records = study(slices=9)
    (item,) = HeartViews(middle=1 / 3).images(records)
    assert item.places == (3, 4, 5)


def test_sides_that_cannot_be_told_are_refused() -> None:
    plane = Plane.through(
        np.zeros(3), np.array([1.0, 1.0, 0.0])
    )  # faces the right ventricle itself
    two = Plane.through(np.zeros(3), np.array([1.0, -1.0, 0.0]))
    four = Plane.through(np.zeros(3), np.array([0.0, 0.0, 1.0]))
    with pytest.raises(ScanError, match="cannot be told apart"):
        Heart(plane, two, four).cross(plane, "short-axis")


@pytest.mark.parametrize("across", [0, 1, 2])
def test_slices_are_counted_along_the_longest_edge(tmp_path, across) -> None:
    affine = np.diag([1.5, 1.5, 1.5, 1.0])
    affine[across, across] = 8.0
    shape = [20, 20, 20]
    shape[across] = 5
    array = np.random.default_rng(0).integers(0, 99, shape).astype(np.int16)
    (tmp_path / "s").mkdir()
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "s" / "a.nii.gz")
    (record,) = records_of(tmp_path / "s", tmp_path / "c")
    assert slice_axis(record) == across


def test_studies_of_one_subject_are_apart(tmp_path) -> None:
    write_hearts(tmp_path / "s", studies=2, edge=16)
    rows = [
        {"image": f"s/heart00{n}/{name}.nii.gz", "subject": "anna", "study": f"visit {n}"}
        for n in range(2)
        for name in NAMES.values()
    ]
    records = records_of(write_manifest(tmp_path / "scans.csv", rows), tmp_path / "c")
    assert {name: len(group) for name, group in studies(records).items()} == {
        "anna/visit 0": 3,
        "anna/visit 1": 3,
    }
    assert len(HeartViews().images(records)) == 2
