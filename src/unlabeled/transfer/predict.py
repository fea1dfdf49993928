"""From a trained run and scans to masks on each scan's own grid, classes, numbers or products: `unlabeled predict`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlabeled.data.formats import write_mask
from unlabeled.data.index import index_scans
from unlabeled.data.scan import Quarantined, Source, say_modality
from unlabeled.data.store import Record
from unlabeled.errors import DataError, OptionError, RunError, ScanError
from unlabeled.options import Between
from unlabeled.training.checkpoint import write_atomically
from unlabeled.training.log import RunFolder
from unlabeled.training.pretrain import WHOLE
from unlabeled.training.progress import Reporter
from unlabeled.training.selection import nothing_usable
from unlabeled.training.settings import device_kind
from unlabeled.transfer.evaluate import as_csv
from unlabeled.transfer.inference import (
    Native,
    classes_of,
    native_grid,
    segment_logits,
    whole_scan_logits,
)
from unlabeled.transfer.instances import Instances
from unlabeled.transfer.localise import Localise
from unlabeled.transfer.products import SavedMethod, load_method, write_picture
from unlabeled.transfer.saved import FILE, SavedTask, load_task
from unlabeled.transfer.tasks import Classes, Masks
from unlabeled.transforms.instances import CLASSES

#: Endings that a file's name loses before the prediction's own is put on.
ENDINGS: tuple[str, ...] = (
    *(".nii.gz", ".nii", ".dcm", ".png", ".jpg", ".jpeg", ".tiff", ".tif", ".npy", ".npz"),
    *(".nrrd", ".nhdr", ".mha", ".mhd"),
)


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What predicting left behind.

    Parameters
    ----------
    out
        Folder with ``predictions.csv``, ``quarantine.csv`` and, of a segmentation, masks and ``labels.json``.
    rows
        What ``predictions.csv`` holds, one row a scan.
    quarantine
        Scans left out, with reasons.
    """

    out: Path
    rows: tuple[dict[str, Any], ...]
    quarantine: tuple[Quarantined, ...]


def predict(
    run: Path | str,
    scans: Path | str,
    out: Path | str,
    *,
    probabilities: bool = False,
    overlap: float = 0.5,
    workers: int = 0,
    accelerator: str = "auto",
    cache: Path | str | None = None,
    quiet: bool = False,
) -> Predicted:
    """Predict scans with a fine-tuned task, or make of them what a pretrained method makes by itself.

    Parameters
    ----------
    run
        Run folder of `finetune`, or of `pretrain` with a method that makes something (landmarks, denoised images).
    scans
        Folder, data set, manifest or one scan.
    out
        Folder for the predictions; masks keep the scans' relative paths.
    probabilities
        Whether to write a map of every class as well: NIfTI, or for pictures a PNG of 65535 times the probability.
    overlap
        Share of a window's edge in common with the next one.
    workers
        Processes that prepare scans.
    accelerator
        ``auto``, ``cpu``, ``cuda`` or ``mps``.
    cache
        Folder of prepared scans; the user's cache folder when absent.
    quiet
        Print no progress.

    Raises
    ------
    UnlabeledError
        The run holds no task, nothing below `scans` can be used, or `out` cannot be written.  A scan that cannot be
        read or does not fit is no reason to stop: it is named in ``quarantine.csv``.
    """
    if overlap not in Between(0, 0.9):
        raise OptionError(f"--overlap is {overlap:g}, outside its range", "Give 0 to 0.9.")
    kind = device_kind(accelerator)
    saved = _load(Path(run))
    root = Path(cache) if cache else None
    index = index_scans(scans, cache=root)
    folder = _make_folder(Path(out))
    bare: Sequence[Source] = index.sources
    if not saved.compares:  # then a broken mask is no hindrance
        bare = [replace(source, mask=None) for source in index.sources]
    store = saved.open_store(root)
    with Reporter("preparing", len(bare), quiet=quiet, unit="scans/s") as reporter:
        prepared = store.prepare(
            say_modality(bare, saved.modality),
            rule=saved.rule,
            workers=workers,
            progress=lambda done, of: reporter.show(done),
        )
    left_out = [*index.quarantine, *prepared.quarantine]
    records = _fitting(saved, prepared.records, left_out)
    if isinstance(saved, SavedTask):
        saved.task.to(kind)
    else:
        saved.method.to(kind)
    names = output_names([record.source.name for record in records])
    rows: list[dict[str, Any]] = []
    with Reporter("predicting", len(records), quiet=quiet, unit="scans/s") as reporter:
        for done, (record, name) in enumerate(zip(records, names, strict=True), start=1):
            try:
                if isinstance(saved, SavedTask):
                    row = _predict_one(saved, record, folder, name, probabilities, overlap)
                else:
                    row = saved.answer(record, folder / name, folder)
                rows.append(row)
            except (ScanError, DataError) as fault:
                left_out.append(Quarantined(record.source.name, fault.fact, fault.remedy))
            reporter.show(done)
    RunFolder(folder).write_quarantine(left_out)
    write_atomically(folder / "predictions.csv", as_csv(rows).encode())
    if isinstance(saved, SavedTask) and isinstance(saved.task, Masks):
        classes = saved.task.classes
        named = dict(zip(classes.names, classes.values, strict=True))
        text = json.dumps({"labels": named}, indent=2, ensure_ascii=False) + "\n"
        write_atomically(folder / "labels.json", text.encode())
    if not rows:
        raise nothing_usable(index, left_out)
    return Predicted(out=folder, rows=tuple(rows), quarantine=tuple(left_out))


def _load(run: Path) -> SavedTask | SavedMethod:
    """Load the task of a run, or the method itself where it makes something of a scan."""
    task = (run / FILE).is_file() or not (run / WHOLE).is_file()
    return load_task(run) if task else load_method(run)


def _predict_one(
    saved: SavedTask,
    record: Record,
    folder: Path,
    name: PurePosixPath,
    probabilities: bool,
    overlap: float,
) -> dict[str, Any]:
    """Predict one scan, write its mask, and give its row."""
    task = saved.task
    stem = folder / name
    if isinstance(task, Masks):
        native = native_grid(record, resampled=saved.spacing is not None)
        logits = segment_logits(task, record, overlap=overlap)
        found, likely = classes_of(logits, record, native)
        path, ending = _mask_path(stem, record)
        write_mask(path, task.classes.decode(found), record.grid, native.affine)
        if probabilities:
            named = dict(zip(task.classes.names, likely, strict=True))
            _write_likely(stem, ending, named, record, native)
        return {
            "file": record.source.name,
            "mask": path.relative_to(folder).as_posix(),
            **_sizes(task, found, native),
        }
    if isinstance(task, Instances):
        return _predict_objects(saved, task, record, folder, stem, probabilities, overlap)
    if isinstance(task, Localise):
        return _predict_places(task, record, folder, stem)
    logits = whole_scan_logits(task, record)
    if isinstance(task, Classes):
        shares = logits.softmax(0).numpy()
        each = {f"p {one}": float(p) for one, p in zip(task.classes, shares, strict=True)}
        return {
            "file": record.source.name,
            "predicted": task.classes[int(shares.argmax())],
            **each,
        }
    return {"file": record.source.name, "predicted": float(logits[0])}


def _predict_objects(
    saved: SavedTask,
    task: Instances,
    record: Record,
    folder: Path,
    stem: Path,
    probabilities: bool,
    overlap: float,
) -> dict[str, Any]:
    """Number the objects of one scan, write them as a mask, and give its row."""
    native = native_grid(record, resampled=saved.spacing is not None)
    _, likely = classes_of(segment_logits(task, record, overlap=overlap), record, native)
    numbered = task.objects(likely)
    path, ending = _mask_path(stem, record)
    write_mask(path, numbered, record.grid, native.affine)
    if probabilities:
        _write_likely(stem, ending, dict(zip(CLASSES, likely, strict=True)), record, native)
    named = path.relative_to(folder).as_posix()
    return {"file": record.source.name, "mask": named, "objects": int(numbered.max())}


def _predict_places(task: Localise, record: Record, folder: Path, stem: Path) -> dict[str, Any]:
    """Say where in the body the slices of a scan lie: a table, a picture, and a row with both ends."""
    placed = task.place(record)
    fitted = placed.lowest + placed.heights
    table = stem.with_name(f"{stem.name}_slices.csv")
    picture = stem.with_name(f"{stem.name}_place.png")
    table.parent.mkdir(parents=True, exist_ok=True)
    each = zip(placed.planes, placed.heights, placed.found, fitted, strict=True)
    rows = [
        {
            "slice": int(plane),
            "height [mm]": float(height),
            "place [mm]": float(found),
            "fitted place [mm]": float(line),
        }
        for plane, height, found, line in each
    ]
    write_atomically(table, as_csv(rows).encode())
    write_picture(picture, task.draw(record, placed))
    return {
        "file": record.source.name,
        "slices": table.relative_to(folder).as_posix(),
        "picture": picture.relative_to(folder).as_posix(),
        "lowest [mm]": float(fitted[0]),
        "highest [mm]": float(fitted[-1]),
    }


def _mask_path(stem: Path, record: Record) -> tuple[Path, str]:
    """Name a scan's mask, PNG for a picture, else NIfTI, and give the ending; its folder is made."""
    picture = len(record.grid.shape) == 2 and record.grid.affine is None
    ending = ".png" if picture else ".nii.gz"
    path = stem.with_name(stem.name + ending)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path, ending


def _write_likely(
    stem: Path, ending: str, likely: Mapping[str, NDArray[Any]], record: Record, native: Native
) -> None:
    """Write a map of every class."""
    for called, layer in likely.items():
        beside = stem.with_name(f"{stem.name}_p_{_plain(called)}{ending}")
        values = np.rint(layer * 65535).astype(np.uint16) if ending == ".png" else layer
        write_mask(beside, values, record.grid, native.affine)


def _sizes(task: Masks, found: NDArray[Any], native: Native) -> dict[str, float]:
    """Measure every class: millilitres of a volume, square millimetres of a picture, voxels without spacing."""
    counts = np.bincount(found.reshape(-1), minlength=len(task.classes.names))
    unit, one = "voxel", 1.0
    if native.spacing is not None:
        volume = len(native.spacing) == 3
        unit = "ml" if volume else "mm2"
        one = float(np.prod(native.spacing)) / (1000.0 if volume else 1.0)
    pairs = zip(task.classes.names[1:], counts[1:], strict=True)
    return {f"{name} [{unit}]": float(count) * one for name, count in pairs}


def _fitting(
    saved: SavedTask | SavedMethod, records: Sequence[Record], left_out: list[Quarantined]
) -> tuple[Record, ...]:
    """Leave out scans that the networks cannot take."""
    fitting = []
    for record in records:
        reason = saved.unfit(record)
        if reason:
            remedy = "Use a run that was trained on such scans."
            left_out.append(Quarantined(record.source.name, reason, remedy))
        else:
            fitting.append(record)
    return tuple(fitting)


def output_names(names: Sequence[str]) -> list[PurePosixPath]:
    """Name predictions after their scans: relative paths without endings, never outside the folder, each once.

    >>> output_names(["p1/t1.nii.gz", "p1/t1.png", "../a b.dcm"])
    [PurePosixPath('p1/t1'), PurePosixPath('p1/t1_png'), PurePosixPath('a b')]
    """
    taken: set[PurePosixPath] = set()
    given = []
    for name in names:
        whole = PurePosixPath(name.replace("\\", "/"))
        parts = [part for part in whole.parts if part not in ("/", "..", ".") and ":" not in part]
        parts = parts or ["scan"]
        last = parts[-1]
        ending = next((end for end in ENDINGS if last.lower().endswith(end)), "")
        stem = last[: len(last) - len(ending)] or last
        path = PurePosixPath(*parts[:-1], stem)
        if path in taken:
            path = PurePosixPath(*parts[:-1], f"{stem}_{ending.strip('.').replace('.', '_')}")
        number = 2
        while path in taken:
            path = PurePosixPath(*parts[:-1], f"{stem}_{number}")
            number += 1
        taken.add(path)
        given.append(path)
    return given


def _make_folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as fault:
        raise RunError(
            f"cannot write to {path} ({'it is a file' if path.is_file() else fault.strerror or fault})",
            "Give a folder that you may write to with --out.",
        ) from None
    return path


def _plain(name: str) -> str:
    """Make a label's name fit for a file.

    >>> _plain("left kidney (upper)")
    'left-kidney-upper'
    """
    return re.sub(r"[^0-9A-Za-z]+", "-", name).strip("-") or "class"
