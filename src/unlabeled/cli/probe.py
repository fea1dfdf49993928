"""``unlabeled probe LABELLED --init RUN``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from unlabeled.cli.render import console, counted, print_json


def probe(
    labelled: Path,
    /,
    *,
    init: Path,
    kind: Literal["linear", "knn"] = "linear",
    like: Path | None = None,
    label_fraction: float = 1.0,
    encoder: str = "",
    patch_size: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (),
    spacing: Annotated[tuple[float, ...] | None, Parameter(consume_multiple=True)] = None,
    modality: str = "",
    maps: int = 1,
    seed: int = 0,
    split_seed: int = 0,
    test: Annotated[bool, Parameter(negative=())] = False,
    workers: int = 0,
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    cache: Path | None = None,
    quiet: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Classify scans by the features of a frozen encoder.

    Parameters
    ----------
    labelled
        Folder, data set or manifest with labels.
    init
        Run folder or weights file; `scratch` for the network as it is drawn, the bar to clear.
    kind
        Logistic regression, or votes of the nearest training scans.
    like
        From scratch: run or weights file whose network, patch and intensity rule are taken.
    label_fraction
        Part of the training subjects to fit on: a share up to 1, or a number of subjects above 1.
    encoder
        Network, where the weights do not say.
    patch_size
        Edges of a patch [voxel]; without it, the pretraining's.
    spacing
        Resample to these voxel edge lengths [mm].
    modality
        What scans are whose files do not say; CT means that intensities are in HU.
    maps
        How many of the coarsest feature maps are taken.
    seed
        Draws the label fraction and the folds that choose penalty or neighbours.
    split_seed
        Draws training, validation and test subjects where the data set does not say.
    test
        Measure on the test subjects as well: once, when everything is decided.
    workers
        Processes that prepare scans.
    accelerator
        Kind of device.
    cache
        Folder of prepared scans; the user's cache folder when absent.
    quiet
        Print no progress.
    json
        Print the scores as JSON.
    """
    from unlabeled.transfer.probe import probe as run_probe

    done = run_probe(
        labelled,
        init=init,
        kind=kind,
        like=like,
        label_fraction=label_fraction,
        encoder=encoder,
        patch_size=patch_size,
        spacing=spacing,
        modality=modality,
        maps=maps,
        seed=seed,
        split_seed=split_seed,
        test=test,
        workers=workers,
        accelerator=accelerator,
        cache=cache,
        quiet=quiet,
    )
    if json:
        scores = {
            part: {name: [each.value, each.low, each.high] for name, each in measures.items()}
            for part, measures in done.metrics.items()
        }
        print_json(
            {
                "kind": done.kind,
                "classes": list(done.classes),
                "subjects": done.subjects,
                "chosen": done.chosen,
                "accuracy by chance": done.chance,
                "metrics": scores,
            }
        )
        return 0
    out = console()
    lines = [] if done.loaded is None else done.loaded.lines()
    lines += [f"note: {note}" for note in done.notes]
    setting = "penalty" if done.kind == "linear" else "neighbours"
    lines.append(
        f"{done.kind} probe on {counted(done.subjects['train'], 'subject')}, {len(done.classes)} classes, "
        f"{setting} {done.chosen:g}"
        + (f"; {counted(done.quarantined, 'scan')} left out" if done.quarantined else "")
    )
    for part, measures in done.metrics.items():
        lines.append(f"{part}, {counted(done.subjects[part], 'subject')}: mean [95 % interval]")
        chance = {
            "auc": 0.5,
            "accuracy": done.chance[part],
            "balanced accuracy": 1 / len(done.classes),
        }
        lines += [
            f"  {name:<18} {interval}  by chance {chance[name]:.3f}"
            for name, interval in measures.items()
        ]
    if not done.metrics:
        lines.append("too few subjects to set any aside: nothing to measure on")
    for line in lines:
        out.print(line, soft_wrap=True, markup=False)
    return 0
