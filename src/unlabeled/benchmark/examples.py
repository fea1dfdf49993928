"""Example predictions of a comparison: the best, the median and the worst test scan, as scratch and each method see it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unlabeled.benchmark.charts import in_order
from unlabeled.benchmark.measures import Measured
from unlabeled.benchmark.numbers import number_text
from unlabeled.benchmark.page import Picture
from unlabeled.benchmark.pictures import cut_out, middle_of, overlay, shown
from unlabeled.benchmark.plan import SCRATCH, Cell, Outcome, Plan, place_of
from unlabeled.benchmark.report import Example
from unlabeled.benchmark.statistics import Fraction
from unlabeled.benchmark.verdict import fraction_text
from unlabeled.data.formats import read_mask, read_scan, write_mask
from unlabeled.data.index import index_scans
from unlabeled.data.scan import Scan, ScanFile, Source, say_modality
from unlabeled.data.store import Record
from unlabeled.errors import DataError, UnlabeledError
from unlabeled.transfer.inference import classes_of, native_grid, segment_logits
from unlabeled.transfer.instances import Instances
from unlabeled.transfer.predict import output_names
from unlabeled.transfer.saved import SavedTask, load_task
from unlabeled.transfer.tasks import Masks

RANKS = ("Best", "Median", "Worst")
MOST = 4  # predictions of one scan side by side: scratch, and the best methods


@dataclass(frozen=True, slots=True)
class Found:
    """What the page shows of predictions: examples, how they were chosen, and the names of the labels drawn."""

    shown: tuple[Example, ...] = ()
    about: str = ""
    label_names: tuple[str, ...] = ()


def find_examples(
    plan: Plan,
    outcome: Outcome,
    out: Path,
    measured: Sequence[Measured],
    names: Mapping[str, str],
    counts: Mapping[Fraction, int],
    *,
    cache: Path | None = None,
) -> Found:
    """Draw the scans that the best method did best, middling and worst on, with the fewest labels.

    Parameters
    ----------
    plan, outcome, out
        What was compared, what it came to, and where; masks that are not there yet go to ``OUT/predictions``.
    measured
        From `compare_measures`.
    names
        Names of methods by slug.
    counts
        Labelled subjects of each label fraction.
    cache
        Folder of prepared scans; the user's cache folder when absent.

    Returns
    -------
    Found
        Without any, where no cell has finished or the scans are not there any more: then `about` says so.
    """
    if not measured:
        return Found()
    first = measured[0]
    fraction = in_order(first.comparison.label_fractions, counts)[0]
    methods = _order(first, fraction)
    rows = {method: _rows(outcome, method, float(fraction)) for method in methods}
    methods = [method for method in methods if rows[method]][:MOST]
    if not methods:
        return Found()
    lead = methods[0]
    chosen = _chosen(rows[lead], first.measure.column, first.measure.higher_is_better)
    ordered = sorted(methods, key=lambda method: method != SCRATCH)
    seed = int(next(iter(rows[lead].values()))[0]["seed"])
    about = (
        f"The scans that {names.get(lead, lead)} did best, middling and worst on, with {fraction_text(fraction)} "
        f"(random start {seed})."
    )
    try:
        index = index_scans(plan.labelled, labelled=True, cache=cache)
        sources = {source.name: source for source in index.sources}
        kept = {rank: sources[name] for rank, name in chosen.items() if name in sources}
        if not kept:
            return Found(about="The labelled scans are not where they were, so none is shown.")
        views = {rank: _View.of(source) for rank, source in kept.items()}
        if "class" in rows[lead][next(iter(chosen.values()))][0] or plan.task == "instances":
            found = {
                m: _masks(plan, Cell(m, float(fraction), seed), out, kept, views, cache)
                for m in ordered
            }
            labels = next(iter(found.values())).labels
            return Found(
                tuple(
                    _mask_example(rank, views[rank], source, ordered, found, rows, first, names)
                    for rank, source in kept.items()
                ),
                about,
                labels,
            )
        return Found(
            tuple(
                _answer_example(rank, views[rank], source, ordered, rows, first, names)
                for rank, source in kept.items()
            ),
            about,
        )
    except (UnlabeledError, OSError):
        return Found(about="The labelled scans or the trained networks cannot be read any more.")


@dataclass(frozen=True)
class _View:
    """The picture of a scan that is shown: a slice of a volume, upright, cut out about what is labelled."""

    scan: Scan
    truth: NDArray[Any] | None
    at: int

    @classmethod
    def of(cls, source: Source) -> _View:
        scan = read_scan(source)
        truth = None
        if source.mask is not None:
            truth = read_mask(source.mask, like=scan, frame=source.frame)
        return cls(scan, truth, middle_of(scan.intensities()[0], truth))

    def flat(self, array: NDArray[Any]) -> NDArray[Any]:
        return shown(array, self.at)

    @property
    def image(self) -> NDArray[Any]:
        return self.flat(self.scan.intensities()[0])


@dataclass(frozen=True)
class _Masks:
    """Predicted class numbers by rank, the names of the classes, and how true values become class numbers."""

    by_rank: dict[str, NDArray[Any]]
    truths: dict[str, NDArray[Any]]
    labels: tuple[str, ...]


def _order(measured: Measured, fraction: float | int) -> list[str]:
    """Name the methods at a fraction, best difference to scratch first; scratch second at the latest."""
    comparison = measured.comparison
    cells = [c for c in comparison.cells if c.label_fraction == fraction]
    sign = 1.0 if comparison.higher_is_better else -1.0
    ranked = sorted(cells, key=lambda cell: -sign * cell.score.mean)
    others = [cell.method for cell in ranked if cell.method != comparison.baseline]
    base = [cell.method for cell in ranked if cell.method == comparison.baseline]
    return [*others[:1], *base, *others[1:]]


def _rows(outcome: Outcome, method: str, fraction: float) -> dict[str, list[dict[str, Any]]]:
    """Collect the rows of each scan, of the first random start that was run."""
    there = [r for r in outcome.rows if (r["method"], float(r["fraction"])) == (method, fraction)]
    seeds = sorted({int(row["seed"]) for row in there})
    found: dict[str, list[dict[str, Any]]] = {}
    for row in there:
        if int(row["seed"]) == seeds[0]:
            found.setdefault(str(row["scan"]), []).append(row)
    return found


def _value(rows: Sequence[Mapping[str, Any]], column: str) -> float:
    """Average a measure over a scan's rows; of a classified scan, give the probability of the truth."""
    likely = [row.get(f"p {row.get('truth')}") for row in rows]
    values = likely if column == "correct" and None not in likely else [r[column] for r in rows]
    known = [float(value) for value in values if value not in ("", None)]
    return float(np.mean(known)) if known else math.nan


def _chosen(rows: Mapping[str, list[dict[str, Any]]], column: str, higher: bool) -> dict[str, str]:
    """Choose the best, the median and the worst scan, each once."""
    values = {scan: _value(there, column) for scan, there in rows.items()}
    known = [scan for scan, value in values.items() if math.isfinite(value)]
    ranked = sorted(known, key=lambda scan: (-values[scan] if higher else values[scan], scan))
    if not ranked:
        return {}
    places = {"Best": 0, "Median": len(ranked) // 2, "Worst": len(ranked) - 1}
    taken: dict[str, str] = {}
    for rank, place in places.items():
        if ranked[place] not in taken.values():
            taken[rank] = ranked[place]
    return taken


def _masks(
    plan: Plan,
    cell: Cell,
    out: Path,
    kept: Mapping[str, Source],
    views: Mapping[str, _View],
    cache: Path | None,
) -> _Masks:
    """Read the predicted masks of a cell, and predict those that are not there."""
    saved = load_task(place_of(plan, cell, out))
    folder = out / "predictions" / cell.name
    stems = output_names([source.name for source in kept.values()])
    by_rank, truths = {}, {}
    for (rank, source), stem in zip(kept.items(), stems, strict=True):
        scan, true = views[rank].scan, views[rank].truth
        flat = len(scan.grid.shape) == 2 and scan.affine is None
        path = folder / (str(stem) + (".png" if flat else ".nii.gz"))
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_mask(path, _predict(saved, _record(saved, source, cache)), scan.grid, scan.affine)
        file = ScanFile((path,), "picture" if flat else "nifti")
        by_rank[rank] = _encoded(saved, read_mask(file, like=scan))
        if true is not None:
            truths[rank] = _encoded(saved, true)
    labels = saved.task.classes.names[1:] if isinstance(saved.task, Masks) else ()
    return _Masks(by_rank, truths, tuple(labels))


def _record(saved: SavedTask, source: Source, cache: Path | None) -> Record:
    """Prepare one scan as for the training of a task."""
    store = saved.open_store(cache)
    prepared = store.prepare(say_modality([source], saved.modality), rule=saved.rule)
    if not prepared.records:
        left_out = prepared.quarantine[0]
        raise DataError(left_out.reason, left_out.remedy)
    return prepared.records[0]


def _predict(saved: SavedTask, record: Record) -> NDArray[Any]:
    """Predict the mask of one scan on its own grid, in the values of the data set."""
    native = native_grid(record, resampled=saved.spacing is not None)
    found, likely = classes_of(segment_logits(saved.task, record), record, native)
    if isinstance(saved.task, Instances):
        return saved.task.objects(likely)
    if isinstance(saved.task, Masks):
        return saved.task.classes.decode(found)
    raise TypeError(f"no mask comes from {type(saved.task)}")


def _encoded(saved: SavedTask, mask: NDArray[Any]) -> NDArray[Any]:
    """Turn mask values into class numbers; objects stay as they are numbered."""
    if not isinstance(saved.task, Masks):
        return mask
    return saved.task.classes.encode(torch.from_numpy(mask.astype(np.int64))).numpy()


def _mask_example(
    rank: str,
    view: _View,
    source: Source,
    methods: Sequence[str],
    found: Mapping[str, _Masks],
    rows: Mapping[str, Mapping[str, list[dict[str, Any]]]],
    measured: Measured,
    names: Mapping[str, str],
) -> Example:
    """Draw one scan as each method sees it, the truth outlined."""
    layers = {m: view.flat(found[m].by_rank[rank]) for m in methods}
    truth = found[methods[0]].truths.get(rank)
    true = None if truth is None else view.flat(truth)
    window = cut_out([*layers.values(), *([] if true is None else [true])])
    pictures = []
    for method in methods:
        called = names.get(method, method)
        value = _value(rows[method].get(source.name, []), measured.measure.column)
        text = f"{called}: {measured.measure.title} {number_text(value)}{_unit(measured)}"
        drawn = overlay(
            view.image[window],
            layers[method][window],
            None if true is None else true[window],
        )
        alt = f"{rank} scan as {called} segments it: prediction tinted, truth outlined"
        pictures.append(Picture(drawn, alt, text))
    return Example(rank, "", tuple(pictures))


def _answer_example(
    rank: str,
    view: _View,
    source: Source,
    methods: Sequence[str],
    rows: Mapping[str, Mapping[str, list[dict[str, Any]]]],
    measured: Measured,
    names: Mapping[str, str],
) -> Example:
    """Show one scan with what it truly is and what each method said."""
    told, truth = [], ""
    for method in methods:
        for row in rows[method].get(source.name, [])[:1]:
            truth = _plain(row["truth"])
            answer = _plain(row["predicted"])
            likely = row.get(f"p {row['predicted']}")
            sure = f" (probability {number_text(float(likely))})" if likely else ""
            right = "" if likely is None else (", right" if answer == truth else ", wrong")
            told.append(f"{names.get(method, method)}: {answer}{sure}{right}")
    picture = Picture(overlay(view.image, np.zeros(view.image.shape, int)), f"{rank} scan", "")
    unit = _unit(measured)
    return Example(rank, f"Truth: {truth}{unit}. " + "; ".join(told) + ".", (picture,))


def _plain(value: Any) -> str:
    """Write a class as it is called, and a number with as many decimals as all others."""
    try:
        return number_text(float(value))
    except ValueError:
        return str(value)


def _unit(measured: Measured) -> str:
    return f" {measured.measure.unit}" if measured.measure.unit else ""
