"""DICOM files into scans: by series, by volume within a series, with pseudonyms in place of names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from pydicom.dataset import Dataset

from unlabeled.data.formats import dicom_tags
from unlabeled.data.formats.contents import Series, guarded
from unlabeled.data.formats.dicom_stack import SamePositionError, series_name, stack
from unlabeled.data.formats.dicom_tags import Plane
from unlabeled.data.scan import Quarantined, ScanFile
from unlabeled.errors import ScanError


@dataclass(frozen=True, slots=True)
class _Entry:
    """What grouping needs of one file."""

    path: Path
    patient: str
    study: str
    series: str
    instance: str
    modality: str
    kind: tuple[int, int, int, str]  # rows, columns, samples, voxel type
    localiser: bool
    planes: tuple[Plane, ...]
    apart: tuple[str, ...]

    @property
    def is_slice(self) -> bool:
        """Whether the file may be one slice among others."""
        return len(self.planes) == 1 and self.planes[0].placed and bool(self.series)


def group_series(
    paths: Iterable[Path], *, salt: bytes = b""
) -> tuple[list[Series], list[Quarantined]]:
    """Sort DICOM files into scans, reading headers alone.

    Files of one series whose place in the patient is known make a volume, sorted by position; a series that holds
    several volumes (echoes, time points, b-values) is split by whatever header value tells them apart.  Multi-frame
    files and pictures are scans of their own.

    Pseudonyms: a subject is the keyed BLAKE2b hash of the patient id.  The key is the smallest study UID found for
    that patient (and `salt`), so the hash is the same on every machine that holds the same files, but cannot be undone
    by trying all patient ids without the studies themselves.  A study is the hash of its UID under the same key.
    Without a patient id, name and birth date stand in for it, then the study UID.

    Parameters
    ----------
    paths
        DICOM files, in any order.
    salt
        Mixed into the key; another salt gives unrelated pseudonyms.

    Returns
    -------
    series
        Sorted by their first file.
    quarantined
        One row for each file, or series as a whole, that cannot be used; named by the (first) file.
    """
    entries: list[_Entry] = []
    quarantined: list[Quarantined] = []
    for path in paths:
        try:
            entries.append(_entry(path))
        except ScanError as error:
            quarantined.append(Quarantined.of(str(path), error))
    names = _Pseudonyms(entries, salt)
    groups: dict[tuple[object, ...], list[_Entry]] = defaultdict(list)
    for entry in sorted(entries, key=lambda entry: str(entry.path)):
        own = entry.is_slice
        key = (entry.study, entry.series, entry.localiser) if own else (str(entry.path),)
        groups[key].append(entry)
    found: list[Series] = []
    for group in groups.values():
        kept = _drop_copies(group, quarantined)
        try:
            volumes = _volumes(kept)
        except ScanError as error:
            quarantined.append(Quarantined.of(str(kept[0].path), error))
            continue
        found += [
            Series(
                file=ScanFile(tuple(entry.path for entry in volume), "dicom"),
                subject=names.subject(volume[0]),
                study=names.study(volume[0]),
                modality=volume[0].modality,
            )
            for volume in volumes
        ]
    return sorted(found, key=lambda series: str(series.file.path)), quarantined


class _Pseudonyms:
    """Names of subjects and studies that say nothing about who they are."""

    def __init__(self, entries: list[_Entry], salt: bytes) -> None:
        self.salt = salt
        self.first_study: dict[str, str] = {}
        for entry in entries:
            known = self.first_study.get(entry.patient, entry.study)
            self.first_study[entry.patient] = min(known, entry.study)

    def subject(self, entry: _Entry) -> str:
        """Name the person of a file; empty when it names none."""
        return self._hash("subject", entry.patient, entry) if entry.patient else ""

    def study(self, entry: _Entry) -> str:
        """Name the visit of a file; empty when it names none."""
        return self._hash("study", entry.study, entry) if entry.study else ""

    def _hash(self, what: str, text: str, entry: _Entry) -> str:
        secret = self.first_study[entry.patient].encode("utf-8", "surrogatepass")
        key = blake2b(secret, key=blake2b(self.salt).digest()).digest()
        full = f"{what}\x1f{text}".encode("utf-8", "surrogatepass")
        return f"{what}-{blake2b(full, key=key, digest_size=8).hexdigest()}"


def _entry(path: Path) -> _Entry:
    """Read what grouping needs of one file."""
    tags = dicom_tags.read_tags(path)
    with guarded(path, "DICOM"):
        image_type = [str(word) for word in _items(tags, "ImageType")]
        study = _text(tags, "StudyInstanceUID")
        named = "\x1f".join(_text(tags, name) for name in ("PatientName", "PatientBirthDate"))
        return _Entry(
            path=path,
            patient=_text(tags, "PatientID") or named.strip("\x1f") or study,
            study=study,
            series=_text(tags, "SeriesInstanceUID"),
            instance=_text(tags, "SOPInstanceUID"),
            modality=dicom_tags.modality_of(tags),
            kind=(
                int(tags.Rows),
                int(tags.Columns),
                int(dicom_tags.number(tags, "SamplesPerPixel", 1)),
                str(dicom_tags.voxel_dtype(tags)),
            ),
            localiser="LOCALIZER" in image_type,
            planes=tuple(dicom_tags.planes_of(tags, path)),
            apart=tuple(_text(tags, name) for name in dicom_tags.TELLS_APART),
        )


def _items(tags: Dataset, name: str) -> list[object]:
    value = tags.get(name)
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def _text(tags: Dataset, name: str) -> str:
    return str(tags.get(name) or "").strip()


def _drop_copies(group: list[_Entry], quarantined: list[Quarantined]) -> list[_Entry]:
    """Keep the first of files that are the same image under several names."""
    kept: dict[str, _Entry] = {}
    for entry in group:
        first = kept.setdefault(entry.instance or str(entry.path), entry)
        if first is not entry:
            quarantined.append(
                Quarantined(
                    str(entry.path),
                    f"{entry.path} is a copy of the same slice as {first.path}",
                    f"Remove it: rm '{entry.path}'",
                )
            )
    return list(kept.values())


def _volumes(group: list[_Entry]) -> list[list[_Entry]]:
    """Split a series into volumes, each sorted by position."""
    where = series_name([entry.path for entry in group])
    if len({entry.kind[:2] for entry in group}) > 1:
        raise ScanError(f"{where} mixes image sizes", "Export each size as a series of its own.")
    if len({entry.kind for entry in group}) > 1:
        raise ScanError(f"{where} mixes voxel types", "Export each type as a series of its own.")
    try:
        return [_sorted(group, where)]
    except SamePositionError as error:
        for index in range(len(dicom_tags.TELLS_APART)):
            parts: dict[str, list[_Entry]] = defaultdict(list)
            for entry in group:
                parts[entry.apart[index]].append(entry)
            try:
                if len(parts) > 1:
                    return [_sorted(part, where) for part in parts.values()]
            except ScanError:
                continue
        raise error from None


def _sorted(group: list[_Entry], where: str) -> list[_Entry]:
    planes = [plane for entry in group for plane in entry.planes]
    if not all(plane.placed for plane in planes):
        return group  # a picture or a cine loop: one file
    order = stack(planes, where).order
    return [group[i] for i in order] if len(group) > 1 else group
