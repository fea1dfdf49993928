"""A trained task as one file: all weights, and what predicting needs to know, without running code from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from unlabeled.data.intensity import IntensityRule
from unlabeled.data.store import Record, Store
from unlabeled.errors import RunError
from unlabeled.nn.encoders import build_encoder
from unlabeled.nn.weights import load_weights, read_weights, save_encoder
from unlabeled.transfer.registry import task_from
from unlabeled.transfer.task import FinetuneOptions, Task

#: Name of the file in a run folder.
FILE = "task.safetensors"


@dataclass(frozen=True)
class SavedTask:
    """A task ready to predict.

    Parameters
    ----------
    task
        With its trained weights, in evaluation mode, on the CPU.
    rule
        How intensities enter it.
    metadata
        Everything else that was saved.
    """

    task: Task
    rule: IntensityRule
    metadata: dict[str, Any]

    @property
    def spacing(self) -> tuple[float, ...] | None:
        """Voxel edge lengths that scans are resampled to [mm]; None keeps each scan's own."""
        edges = self.metadata["resampled"]
        return None if edges is None else tuple(edges)

    @property
    def compares(self) -> bool:
        """Whether predicting looks at masks: never, `finetune --test` does that."""
        return False

    @property
    def modality(self) -> str:
        """What the scans that it learnt from were, where they were of one kind: what further ones are taken for."""
        learnt = self.metadata.get("modality") or []
        return str(learnt[0]) if len(learnt) == 1 else ""

    def open_store(self, root: Path | None) -> Store:
        """Open the store of scans prepared as for its training."""
        return Store(root, spacing=self.spacing)

    def unfit(self, record: Record) -> str:
        """Say why the task cannot take a scan; empty when it can."""
        return self.task.unfit(record)


def save_task(folder: Path, task: Task, metadata: dict[str, Any]) -> None:
    """Write ``task.safetensors`` and, for the next task to start from, ``encoder.safetensors``.

    Parameters
    ----------
    folder
        Run folder.
    task
        Trained.
    metadata
        ``spacing``, ``orientation``, ``intensity``, ``modality``, ... as `save_encoder` wants them.
    """
    facts = {
        **metadata,
        "task": task.describe(),
        "patch_size": list(task.options.patch_size),
        "resampled": None if task.options.spacing is None else list(task.options.spacing),
    }
    parts: dict[str, nn.Module] = dict(task.named_children())
    save_encoder(folder / FILE, parts, facts)
    save_encoder(folder / "encoder.safetensors", task.carries(), facts)


def load_task(run: Path | str) -> SavedTask:
    """Rebuild the task of a run folder, every tensor in place.

    Raises
    ------
    RunError
        The folder holds no fine-tuned task, or its file is damaged.
    """
    run = Path(run)
    path = run / FILE if run.is_dir() or not run.suffix else run
    if not path.is_file():
        pretrained = (run / "encoder.safetensors").is_file()
        raise RunError(
            f"{run} holds no fine-tuned task"
            + (", only a pretrained encoder" if pretrained else ""),
            f"Fine-tune it first: unlabeled finetune segment LABELLED --init {run} --out RUN."
            if pretrained
            else "Give the run folder of a finished `unlabeled finetune`.",
        )
    tensors, facts = read_weights(path)
    try:
        described, rule = facts["task"], rule_from(facts)
        encoder = build_encoder(
            facts["encoder"], dims=int(facts["dims"]), in_channels=int(facts["channels"])
        )
        options = FinetuneOptions(
            encoder=facts["encoder"],
            patch_size=tuple(facts["patch_size"]),
            spacing=None if facts["resampled"] is None else tuple(facts["resampled"]),
        )
        task = task_from(described, options, encoder)
    except (KeyError, TypeError) as fault:
        raise RunError(
            f"{path} lacks what predicting needs ({fault})",
            "It was written by another version, or is no fine-tuned task; fine-tune again.",
        ) from None
    report = load_weights(task, tensors, source=str(path), least=0.0)
    if report.missing or report.adapted:
        raise RunError(
            f"{path} does not hold every tensor of its task: {report}",
            "It was written by another version; fine-tune again.",
        )
    return SavedTask(task.eval(), rule, facts)


def _tuples(plain: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in plain.items()}


def rule_from(metadata: dict[str, Any]) -> IntensityRule:
    """Give the intensity rule that weights were trained under; the default where they do not say."""
    plain = metadata.get("intensity")
    return IntensityRule(**_tuples(plain)) if plain else IntensityRule()
