"""What a person asks of a comparison: data, methods, and options by what they belong to."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from unlabeled.errors import OptionError
from unlabeled.options import Count, Options, Positive, Whole, flag
from unlabeled.training.settings import Settings
from unlabeled.transfer.task import FinetuneOptions, TaskName

CELL_OWN = ("label_fraction", "seed", "samples_per_scan")  # of fine-tuning: the plan's, or computed
OURS = ("resume", "quiet", "devices", "nodes")  # of settings: a run uses one device


ALL = "all"
NETWORK = "resenc-s"  # for methods whose own networks differ
_CELL_OWN = (
    "label_fraction",
    "seed",
    "samples_per_scan",
)  # of fine-tuning: the plan's, or computed
_OURS = ("resume", "quiet", "devices", "nodes")  # of settings: a run uses one device


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(Options):
    """The same for every method and for scratch, in pretraining and in fine-tuning.

    Parameters
    ----------
    encoder
        Network; without it, the methods' own where they agree, else resenc-s. `unlabeled doctor` lists the names.
    patch_size
        Edge lengths of a patch [voxel]; without it, each method's own, and in fine-tuning the largest of these.
    dims
        Axes of space of the networks; without it, what the scans have.
    spacing
        Resample to these voxel edge lengths [mm]; without it, each scan keeps its own.
    modality
        What scans are whose files do not say (NIfTI knows none); CT means that intensities are in HU.
    batch_size
        Patches a step; without it, each method's own, and 4 in fine-tuning.
    """

    encoder: str | None = None
    patch_size: tuple[Count, ...] | None = None
    dims: Literal[2, 3] | None = None
    spacing: tuple[Positive, ...] | None = None
    modality: str | None = None
    batch_size: Count | None = None


@dataclass(frozen=True, kw_only=True)
class PretrainingOptions(Options):
    """What every method's pretraining shares; without them, each method's own.

    Parameters
    ----------
    pretrain_steps
        Stop every pretraining after so many optimiser rounds.
    pretrain_epochs
        Passes over the unlabelled scans.
    pretrain_batch_size
        Samples a step, in pretraining alone.
    pretrain_lr
        Learning rate at the start.
    pretrain_samples_per_scan
        Samples that each scan gives an epoch.
    pretrain_seed
        Random start.
    """

    pretrain_steps: Count | None = None
    pretrain_epochs: Count | None = None
    pretrain_batch_size: Count | None = None
    pretrain_lr: Positive | None = None
    pretrain_samples_per_scan: Count | None = None
    pretrain_seed: Whole | None = None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a person asks for; what is None comes from the plan file, else from the data or the defaults.

    Parameters
    ----------
    scans, labelled
        Unlabelled and labelled scans.
    methods
        Slugs, or options by slug; ``all`` for those that fit.
    fractions
        Label fractions.
    seeds
        Random starts of each cell.
    task, part, title
        As in `Plan`.
    config
        Plan file.
    values
        Options by name: of `NetworkOptions`, `PretrainingOptions`, fine-tuning, settings.
    """

    scans: Path | None = None
    labelled: Path | None = None
    methods: Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None
    fractions: Sequence[float] | None = None
    seeds: int | None = None
    task: TaskName | None = None
    part: str | None = None
    title: str | None = None
    config: Path | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


def sort_options(
    values: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Sort options by name: network, pretraining, fine-tuning, settings; those that are None are not given.

    Raises
    ------
    OptionError
        An option that no one has, or a value outside its range.
    """
    given = {name: value for name, value in values.items() if value is not None}
    known = (
        *NetworkOptions.names(),
        *PretrainingOptions.names(),
        *(name for name in FinetuneOptions.names() if name not in CELL_OWN),
        *(name for name in Settings.names() if name not in OURS),
    )
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {flag(near[0])}?" if near else "--help lists the options."
            raise OptionError(f"unknown option {flag(name)}", hint)
    network = {n: v for n, v in given.items() if n in NetworkOptions.names()}
    pretraining = {
        n.removeprefix("pretrain_"): v for n, v in given.items() if n in PretrainingOptions.names()
    }
    NetworkOptions(**network)
    PretrainingOptions(**{f"pretrain_{n}": v for n, v in pretraining.items()})
    settings = {n: v for n, v in given.items() if n in Settings.names()}
    rest = {n: v for n, v in given.items() if n not in (*network, *settings)}
    finetuning = {n: v for n, v in rest.items() if n not in PretrainingOptions.names()}
    return network, pretraining, finetuning, settings


def shared_names() -> tuple[str, ...]:
    """Name the options of fine-tuning that are the network's too, or computed: they are listed once."""
    return tuple(n for n in FinetuneOptions.names() if n in (*NetworkOptions.names(), *CELL_OWN))
