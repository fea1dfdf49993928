"""Whatever lies in a folder is read, refused with reason and remedy, or no scan: never a traceback or a hang."""

from __future__ import annotations

import builtins
import io
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from unlabeled.data.formats import detect, group_series, read_header, read_scan
from unlabeled.data.scan import Quarantined, Scan, ScanFile, Source
from unlabeled.errors import ScanError


def found_in(folder: Path) -> tuple[list[Scan], list[Quarantined]]:
    """Read all that is in a folder, as an index would."""
    kinds = {path: detect(path) for path in sorted(folder.rglob("*"))}
    series, refused = group_series([path for path, kind in kinds.items() if kind == "dicom"])
    files = [one.file for one in series]
    files += [
        ScanFile((path,), kind) for path, kind in kinds.items() if kind not in (None, "dicom")
    ]
    scans = []
    for file in files:
        try:
            header = read_header(file)
            scan = read_scan(Source(name=file.path.name, channels=(file,), subject="a"))
        except ScanError as error:
            refused.append(Quarantined.of(str(file.path), error))
            continue
        assert scan.array.shape == (header.channels, *header.shape)
        assert scan.array.dtype == header.dtype
        scans.append(scan)
    return scans, refused


@pytest.mark.timeout(60)
def test_broken_input_is_read_or_refused_with_a_reason(
    broken: ModuleType, broken_name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    case = broken.CASES[broken_name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the makers, who write what libraries warn about
        case.make(tmp_path)
    capfd.readouterr()
    scans, refused = found_in(tmp_path)
    said = capfd.readouterr()
    assert said.out == said.err == ""
    assert bool(scans) == (case.ends in ("read", "partly"))
    assert bool(refused) == (case.ends in ("refused", "partly"))
    for scan in scans:
        assert np.isfinite(scan.intensities()).all()
        assert scan.array.dtype.isnative
        assert scan.array.flags.c_contiguous
        assert (scan.affine is None) or np.isfinite(scan.affine).all()
    for row in refused:
        assert row.name.startswith(str(tmp_path))
        assert str(tmp_path) in row.reason
        assert case.says in row.reason
        assert row.remedy
        assert not any(name in f"{row}" for name in broken.PATIENT.values())


def test_the_corpus_holds_at_least_forty_kinds_that_end_as_declared(broken: ModuleType) -> None:
    ends = [case.ends for case in broken.CASES.values()]
    assert len(ends) >= 40
    assert set(ends) == {"read", "refused", "partly", "ignored"}


@pytest.mark.parametrize("name", ["s.nii.gz", "s.nii", "s.png", "s.tif", "s.npy", "s.dcm"])
def test_a_file_that_may_not_be_read_is_named_with_the_command_that_allows_it(
    broken: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / name
    make = {".gz": broken.nifti, ".nii": broken.nifti, ".dcm": broken.dicom}
    makers = {".png": broken.picture, ".tif": broken.tiff, ".npy": broken.array_file}
    if path.suffix in make:
        make[path.suffix](path)
    else:
        makers[path.suffix](path, broken.voxels(9, 9, dtype=np.uint8))
    plain = builtins.open

    def closed(file: object, *how: object, **more: object) -> object:
        if str(file) == str(path):
            raise PermissionError(13, "Permission denied", str(file))
        return plain(file, *how, **more)  # type: ignore[call-overload]

    kind = detect(path)
    monkeypatch.setattr(builtins, "open", closed)
    monkeypatch.setattr(io, "open", closed)
    with pytest.raises(ScanError, match="may not be read by this user") as caught:
        read_scan(Source(name="s", channels=(ScanFile((path,), kind or ""),), subject=""))
    assert caught.value.remedy == f"Allow it: chmod u+r '{path}'"


def test_a_missing_file_and_an_unknown_format_are_named(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="does not exist"):
        read_header(ScanFile((tmp_path / "gone.nii",), "nifti"))
    with pytest.raises(ScanError, match="unknown format 'video'"):
        read_header(ScanFile((tmp_path / "gone.mp4",), "video"))


SOUND = {
    "a.nii": lambda make, path: make.nifti(path),
    "a.nii.gz": lambda make, path: make.nifti(path),
    "a.dcm": lambda make, path: make.dicom(path),
    "a.png": lambda make, path: make.picture(path, make.voxels(20, 30, dtype=np.uint8)),
    "a.jpg": lambda make, path: make.picture(path, make.voxels(20, 30, 3, dtype=np.uint8)),
    "a.tif": lambda make, path: make.tiff(path, make.voxels(3, 20, 30, dtype=np.uint16)),
    "b.tif": lambda make, path: make.picture(
        path, make.voxels(20, 30, dtype=np.uint8), compression="tiff_lzw"
    ),
    "a.npy": lambda make, path: make.array_file(path, make.voxels(5, 6)),
    "a.mha": lambda make, path: make.CASES["metaimage"].make(path.parent),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", SOUND)
def test_flipped_bytes_and_cuts_anywhere_end_in_a_scan_or_a_reason(
    broken: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    path = tmp_path / name
    SOUND[name](broken, path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    file = ScanFile((path,), detect(path) or "")
    capfd.readouterr()
    for _ in range(120):
        damaged = bytearray(whole)
        if rng.random() < 0.2:
            damaged = damaged[: int(rng.integers(1, len(damaged)))]
        for _ in range(int(rng.choice((1, 2, 8)))):
            reach = min(len(damaged), int(rng.choice((400, len(damaged)))))
            damaged[int(rng.integers(reach))] = int(rng.choice((0, 255, int(rng.integers(256)))))
        path.write_bytes(bytes(damaged))
        try:
            read_header(file)
            scan = read_scan(Source(name=name, channels=(file,), subject="a"))
        except ScanError as error:
            said = error.fact
        else:
            said = str(path)
            assert scan.array.size
        assert str(path) in said
    assert capfd.readouterr() == ("", "")
