"""How good a trained task is on whole subjects: one row a scan and class, means with intervals, two files."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unlabeled.data import formats
from unlabeled.data.store import Record
from unlabeled.training.checkpoint import write_atomically
from unlabeled.transfer import metrics
from unlabeled.transfer.inference import classes_of, native_grid, segment_logits, whole_scan_logits
from unlabeled.transfer.instances import Instances
from unlabeled.transfer.localise import Localise, target_of
from unlabeled.transfer.matching import match_objects
from unlabeled.transfer.metrics import Interval
from unlabeled.transfer.task import Task
from unlabeled.transfer.tasks import Classes, Masks, Regress


@dataclass(frozen=True)
class Evaluation:
    """What a task scored on one part of the subjects.

    Parameters
    ----------
    rows
        One a scan (and class), plain values: the rows of ``metrics.csv``.
    measures
        Means over subjects by name, with intervals.
    subjects, scans
        How many.
    unit
        Of distances: ``mm``, or ``voxel`` where a scan has no spacing.
    """

    rows: tuple[dict[str, Any], ...]
    measures: dict[str, Interval]
    subjects: int
    scans: int
    unit: str = "mm"


def evaluate(
    task: Task,
    records: Sequence[Record],
    *,
    tolerance: float = 1.0,
    progress: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Predict whole scans and compare them with their labels.

    Parameters
    ----------
    task
        Trained.
    records
        Labelled scans of subjects that were not trained on.
    tolerance
        Distance that counts as met, for NSD [mm].
    progress
        Called with the number of scans done.
    """
    if isinstance(task, Masks):
        return _evaluate_masks(task, records, tolerance, progress)
    if isinstance(task, Instances):
        return _evaluate_instances(task, records, progress)
    if isinstance(task, Classes):
        return _evaluate_classes(task, records, progress)
    if isinstance(task, Localise):
        return _evaluate_places(task, records, progress)
    if isinstance(task, Regress):
        return _evaluate_targets(task, records, progress)
    raise TypeError(f"no evaluation for {type(task)}")


def _evaluate_masks(
    task: Masks,
    records: Sequence[Record],
    tolerance: float,
    progress: Callable[[int], None],
) -> Evaluation:
    rows: list[dict[str, Any]] = []
    resampled = task.options.spacing is not None
    known = True
    for done, record in enumerate(records, start=1):
        native = native_grid(record, resampled=resampled)
        known = known and native.spacing is not None
        found, _ = classes_of(segment_logits(task, record), record, native)
        truth = task.classes.encode(_true_mask(record, resampled=resampled)).numpy()
        for one, name in enumerate(task.classes.names[1:], start=1):
            scored = metrics.overlap(
                found == one, truth == one, spacing=native.spacing, tolerance=tolerance
            )
            about = {"subject": record.subject, "scan": record.source.name, "class": name}
            rows.append({**about, **asdict(scored)})
        progress(done)
    measures: dict[str, Interval] = {}
    for measure in ("dice", "hd95", "nsd"):
        measures[measure] = _mean(_by_scan(rows, measure))
        if len(task.classes.names) > 2:
            for name in task.classes.names[1:]:
                measures[f"{measure} {name}"] = _mean(_by_scan(rows, measure, name))
    return _evaluation(rows, measures, records, "mm" if known else "voxel")


def _evaluate_instances(
    task: Instances, records: Sequence[Record], progress: Callable[[int], None]
) -> Evaluation:
    rows: list[dict[str, Any]] = []
    resampled = task.options.spacing is not None
    for done, record in enumerate(records, start=1):
        native = native_grid(record, resampled=resampled)
        _, likely = classes_of(segment_logits(task, record), record, native)
        truth = _true_mask(record, resampled=resampled).numpy()
        matching = match_objects(task.objects(likely), truth)
        rows.append(
            {
                "subject": record.subject,
                "scan": record.source.name,
                "average precision": matching.precision,
                "seg": matching.seg,
                "matched": matching.matched,
                "found": matching.found,
                "true": matching.true,
            }
        )
        progress(done)
    measures = {
        name: _mean([(row["subject"], row[name]) for row in rows])
        for name in ("average precision", "seg")
    }
    return _evaluation(rows, measures, records)


def _true_mask(record: Record, *, resampled: bool) -> Tensor:
    """Read the mask on the scan's own grid: from the file again where the store resampled it."""
    if not resampled:
        return record.mask_patch((0,) * record.dims, record.space)
    if record.source.mask is None:
        raise RuntimeError(f"{record.source.name} has no mask")
    scan = formats.read_scan(record.source)
    mask = formats.read_mask(record.source.mask, like=scan, frame=record.source.frame)
    return torch.from_numpy(mask.astype(np.int64))


def _evaluate_classes(
    task: Classes, records: Sequence[Record], progress: Callable[[int], None]
) -> Evaluation:
    rows = []
    scores = np.zeros((len(records), len(task.classes)))
    truth = np.array([task.number[str(record.source.label)] for record in records], dtype=np.intp)
    for number, record in enumerate(records):
        scores[number] = whole_scan_logits(task, record).softmax(0).numpy()
        likely = {
            f"p {name}": float(p) for name, p in zip(task.classes, scores[number], strict=True)
        }
        rows.append(
            {
                "subject": record.subject,
                "scan": record.source.name,
                "truth": record.source.label,
                "predicted": task.classes[int(scores[number].argmax())],
                **likely,
            }
        )
        progress(number + 1)
    subjects = [record.subject for record in records]
    return _evaluation(rows, score_classes(scores, truth, subjects), records)


def score_classes(
    scores: NDArray[Any], truth: NDArray[Any], subjects: Sequence[str]
) -> dict[str, Interval]:
    """Give AUC, accuracy and balanced accuracy with intervals over subjects."""
    return {
        "auc": metrics.bootstrap(lambda rows: metrics.roc_auc(scores[rows], truth[rows]), subjects),
        "accuracy": metrics.bootstrap(
            lambda rows: metrics.accuracy(scores[rows], truth[rows]), subjects
        ),
        "balanced accuracy": metrics.bootstrap(
            lambda rows: metrics.balanced_accuracy(scores[rows], truth[rows]), subjects
        ),
    }


def _evaluate_targets(
    task: Regress, records: Sequence[Record], progress: Callable[[int], None]
) -> Evaluation:
    rows: list[dict[str, Any]] = []
    for done, record in enumerate(records, start=1):
        estimate = float(whole_scan_logits(task, record)[0])
        truth = float(record.source.target if record.source.target is not None else math.nan)
        rows.append(
            {
                "subject": record.subject,
                "scan": record.source.name,
                "truth": truth,
                "predicted": estimate,
                "absolute error": abs(estimate - truth),
            }
        )
        progress(done)
    errors = [(str(row["subject"]), float(row["absolute error"])) for row in rows]
    chance = [(str(row["subject"]), abs(float(row["truth"]) - task.centre)) for row in rows]
    measures = {
        "absolute error": _mean(errors),
        "absolute error of the training mean": _mean(chance),
    }
    return _evaluation(rows, measures, records)


def _evaluate_places(
    task: Localise, records: Sequence[Record], progress: Callable[[int], None]
) -> Evaluation:
    """Measure every slice by itself in mm and in slices, beside what the mean place of all training slices would miss."""
    rows: list[dict[str, Any]] = []
    for done, record in enumerate(records, start=1):
        placed = task.place(record)
        lowest = target_of(record)
        truth = lowest + placed.heights
        missed = float(np.abs(placed.found - truth).mean())
        usual = float(np.abs(task.centre - truth).mean())
        edge = record.spacing[2] if record.dims == 3 and record.spacing else math.nan
        rows.append(
            {
                "subject": record.subject,
                "scan": record.source.name,
                "slices": len(placed.found),
                "truth": lowest,
                "predicted": placed.lowest,
                "error mm": missed,
                "error slices": missed / edge,
                "error mm of the training mean": usual,
                "error slices of the training mean": usual / edge,
                "error mm of the whole scan": abs(placed.lowest - lowest),
            }
        )
        progress(done)
    measures = {}
    for name in [name for name in rows[0] if name.startswith("error")] if rows else ():
        pairs = [(str(row["subject"]), float(row[name])) for row in rows]
        if not all(math.isnan(value) for _, value in pairs):
            measures[name] = _mean(pairs)
    return _evaluation(rows, measures, records)


def _by_scan(
    rows: Sequence[Mapping[str, Any]], measure: str, name: str | None = None
) -> list[tuple[str, float]]:
    """Average a measure over the classes of each scan, those without a value left out."""
    scans: dict[str, tuple[str, list[float]]] = {}
    for row in rows:
        if name is None or row["class"] == name:
            held = scans.setdefault(str(row["scan"]), (str(row["subject"]), []))[1]
            if not math.isnan(row[measure]):
                held.append(row[measure])
    return [(who, float(np.mean(held)) if held else math.nan) for who, held in scans.values()]


def _mean(pairs: Sequence[tuple[str, float]]) -> Interval:
    return metrics.mean_interval([value for _, value in pairs], [who for who, _ in pairs])


def _evaluation(
    rows: list[dict[str, Any]],
    measures: dict[str, Interval],
    records: Sequence[Record],
    unit: str = "mm",
) -> Evaluation:
    subjects = len({record.subject for record in records})
    return Evaluation(tuple(rows), measures, subjects, len(records), unit)


def write_metrics(folder: Path, parts: Mapping[str, Evaluation]) -> None:
    """Write ``metrics.csv`` (one row a scan and class) and ``metrics.json`` (means with intervals) into a folder."""
    rows = [{"split": name, **row} for name, part in parts.items() for row in part.rows]
    write_atomically(folder / "metrics.csv", as_csv(rows).encode())
    summary = {
        name: {
            "subjects": part.subjects,
            "scans": part.scans,
            "unit": part.unit,
            "measures": {
                measure: {end: _number(x) for end, x in asdict(interval).items()}
                for measure, interval in part.measures.items()
            },
        }
        for name, part in parts.items()
    }
    text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
    write_atomically(folder / "metrics.json", text.encode())


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows of plain values as CSV; NaN becomes an empty field."""
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _field(value) for name, value in row.items()})
    return text.getvalue()


def _field(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
