"""Tasks by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from unlabeled.nn.encoders import Encoder
from unlabeled.transfer.fewshot import FewShot
from unlabeled.transfer.instances import Instances
from unlabeled.transfer.label_transfer import LabelTransfer
from unlabeled.transfer.localise import Localise
from unlabeled.transfer.multitask import MultiTask
from unlabeled.transfer.task import FinetuneOptions, Task, TaskName
from unlabeled.transfer.tasks import Classify, Regress, Segment
from unlabeled.transfer.zeroshot import ZeroShot

#: What `unlabeled finetune TASK` takes.
TASKS: Mapping[TaskName, type[Task]] = MappingProxyType(
    {
        "segment": Segment,
        "instances": Instances,
        "classify": Classify,
        "regress": Regress,
        "localise": Localise,
        "few-shot": FewShot,
        "label-transfer": LabelTransfer,
        "zero-shot": ZeroShot,
        "multi-task": MultiTask,
    }
)


def task_from(described: Mapping[str, Any], options: FinetuneOptions, encoder: Encoder) -> Task:
    """Build a task from what `Task.describe` gave, with fresh weights."""
    kind: TaskName = described["kind"]
    return TASKS[kind].restore(described, options, encoder)
