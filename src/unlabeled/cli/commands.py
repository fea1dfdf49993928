"""The commands: where each one is, what it does, and how it is typed; nothing of it is imported to list them."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """One command, before its module is imported."""

    place: str
    does: str
    usage: str


COMMANDS = {
    "check": Command(
        "unlabeled.cli.check:check",
        "Say what can be used of a folder of scans, and what is wrong with the rest.",
        "unlabeled check SCANS",
    ),
    "estimate": Command(
        "unlabeled.cli.estimate:estimate_command",
        "Say how long a pretraining would take, and how much memory and disk.",
        "unlabeled estimate SLUG SCANS",
    ),
    "pretrain": Command(
        "unlabeled.cli.pretrain:pretrain_command",
        "Pretrain an encoder on unlabelled scans.",
        "unlabeled pretrain SLUG SCANS --out RUN",
    ),
    "finetune": Command(
        "unlabeled.cli.finetune:finetune_command",
        "Train a task on labelled scans, from a pretrained encoder or from scratch.",
        "unlabeled finetune segment LABELLED --init RUN --out RUN2",
    ),
    "probe": Command(
        "unlabeled.cli.probe:probe",
        "Classify scans by the features of a frozen encoder.",
        "unlabeled probe LABELLED --init RUN",
    ),
    "predict": Command(
        "unlabeled.cli.predict:predict",
        "Predict masks on each scan's own grid, or classes as CSV.",
        "unlabeled predict RUN SCANS --out DIR",
    ),
    "compare": Command(
        "unlabeled.cli.compare:compare_command",
        "Compare methods with training from scratch, at every label fraction, with statistics.",
        "unlabeled compare SCANS LABELLED --methods SLUG,SLUG --out DIR",
    ),
    "export": Command(
        "unlabeled.cli.export:export",
        "Write the encoder of a run for nnU-Net, MONAI, timm, safetensors or ONNX.",
        "unlabeled export RUN --to nnunet --out FILE",
    ),
    "report": Command(
        "unlabeled.cli.report:report",
        "Write the page of a run, or of a comparison again.",
        "unlabeled report RUN",
    ),
    "methods": Command(
        "unlabeled.cli.methods:methods",
        "List the methods, or show one method's card.",
        "unlabeled methods SLUG",
    ),
    "papers": Command(
        "unlabeled.cli.papers:app",
        "List the papers of both reading lists with what was measured, or check added ones.",
        "unlabeled papers SLUG, or unlabeled papers check FILE",
    ),
    "cache": Command(
        "unlabeled.cli.cache:cache",
        "List the prepared scans, or remove them.",
        "unlabeled cache --prune --older-than 30",
    ),
    "doctor": Command(
        "unlabeled.cli.doctor:doctor",
        "Say what this machine has and lacks.",
        "unlabeled doctor",
    ),
    "demo": Command(
        "unlabeled.cli.demo:demo",
        "The main job in small, on virtual patients, in minutes.",
        "unlabeled demo",
    ),
}
