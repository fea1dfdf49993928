"""DICOM files are grouped into scans, with pseudonyms in place of names."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from unlabeled.data.formats import group_series

HEIGHTS = [0.0, 2.5, 5.0, 7.5, 10.0]


def test_echoes_of_one_series_are_told_apart(broken: ModuleType, tmp_path: Path) -> None:
    broken.CASES["several_volumes_in_a_series"].make(tmp_path)
    found, refused = group_series(tmp_path.rglob("*.dcm"))
    assert not refused
    assert [len(series.file.paths) for series in found] == [5, 5]
    assert all(len({path.parent for path in series.file.paths}) == 1 for series in found)


def test_localisers_and_pictures_are_scans_of_their_own(broken: ModuleType, tmp_path: Path) -> None:
    broken.series(tmp_path, HEIGHTS)
    broken.dicom(
        tmp_path / "scout.dcm",
        ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
    )
    for name in ("left", "right"):
        broken.dicom(
            tmp_path / f"{name}.dcm",
            Modality="MG",
            SeriesInstanceUID="1.2.9",
            ImagePositionPatient=None,
            ImageOrientationPatient=None,
        )
    found, refused = group_series(tmp_path.iterdir())
    assert not refused
    assert sorted(len(series.file.paths) for series in found) == [1, 1, 1, 5]
    assert {series.modality for series in found} == {"CT", "MG"}


def test_the_files_of_a_series_are_sorted_by_position(broken: ModuleType, tmp_path: Path) -> None:
    paths = broken.series(tmp_path, [5.0, 0.0, 7.5, 2.5])
    (found,), _ = group_series(paths)
    assert found.file.paths == (paths[1], paths[3], paths[0], paths[2])


def subjects(paths: list[Path], **how: bytes) -> dict[Path, tuple[str, str]]:
    found, _ = group_series(paths, **how)
    return {series.file.path: (series.subject, series.study) for series in found}


def test_pseudonyms_join_a_patients_studies_and_tell_nothing(
    broken: ModuleType, tmp_path: Path
) -> None:
    a = broken.dicom(tmp_path / "a.dcm", StudyInstanceUID="1.2.1", SeriesInstanceUID="1.2.1.1")
    b = broken.dicom(tmp_path / "b.dcm", StudyInstanceUID="1.2.2", SeriesInstanceUID="1.2.2.1")
    c = broken.dicom(
        tmp_path / "c.dcm", PatientID="other", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.1"
    )
    names = subjects([a, b, c])
    assert names[a][0] == names[b][0] != names[c][0]
    assert len({study for _, study in names.values()}) == 3
    assert names == subjects([c, b, a])
    said = repr(names)
    assert not any(personal in said for personal in [*broken.PATIENT.values(), "1.2.1", "other"])
    # Neither does the id alone give the name (the key is a study UID), nor does it hold under another salt.
    moved = broken.dicom(tmp_path / "d.dcm", StudyInstanceUID="1.2.8", SeriesInstanceUID="1.2.8.1")
    assert subjects([moved])[moved][0] != names[a][0]
    assert subjects([a, b, c], salt=b"x")[a][0] != names[a][0]


def test_without_a_patient_id_the_name_or_the_study_stands_in(
    broken: ModuleType, tmp_path: Path
) -> None:
    def write(name: str, **tags: object) -> Path:
        return broken.dicom(tmp_path / name, SeriesInstanceUID=f"1.2.{len(name)}", **tags)

    named = [write("a.dcm", PatientID=""), write("ab.dcm", PatientID=None)]
    nobody = {"PatientID": None, "PatientName": None, "PatientBirthDate": None}
    bare = write("abc.dcm", **nobody)
    unknown = write("abcd.dcm", **nobody, StudyInstanceUID=None)
    names = subjects([*named, bare, unknown])
    assert names[named[0]][0] == names[named[1]][0]
    assert names[bare][0] not in ("", names[named[0]][0])
    assert names[unknown] == ("", "")
