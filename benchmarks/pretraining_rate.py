"""Does the loop keep the networks busy?  Pretraining against bare forward-backward-step on a fixed batch.

    python benchmarks/pretraining_rate.py [--full] [--only SLUG]

Both run the same method on the same device in one process, a few steps of each in turn; a round's ratio is bare time over
pretraining time, and the median of the rounds is the figure (1.0: the loop costs nothing; the aim is 0.95).  Pretraining includes
drawing patches from the prepared store, the deformations, logging, schedules.  Every phase of a method is measured by itself.
``--full`` takes the paper's sizes, for a GPU; ``--only`` measures one method and keeps its figures in a file of its own.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _common import keep

from unlabeled.data.index import index_scans
from unlabeled.data.scan import Unit
from unlabeled.demo.frames import write_frames
from unlabeled.demo.hearts import write_hearts
from unlabeled.demo.modalities import write_modalities
from unlabeled.demo.phantoms import write_manifest, write_patients
from unlabeled.demo.spines import write_spines
from unlabeled.demo.stereo import write_stereo
from unlabeled.demo.subjects import write_subject
from unlabeled.methods._base import Method, Phase
from unlabeled.methods._registry import find
from unlabeled.training.engine import train
from unlabeled.training.loader import AHEAD, held_out_batch, items_of
from unlabeled.training.log import RunFolder
from unlabeled.training.optimisers import fuse
from unlabeled.training.pretrain import build_method, open_store
from unlabeled.training.settings import Settings, make_fabric

REPORT = "Small left pleural effusion with adjacent atelectasis. No pneumothorax is seen.\n1. Heart size is normal."
SMALL = {
    "anatomical-position 2D unet": (
        2,
        {"encoder": "unet", "patch_size": (96, 96), "batch_size": 2},
    ),
    "anatomical-position 2D resenc-tiny": (
        2,
        {"encoder": "resenc-tiny", "patch_size": (96, 96), "batch_size": 8},
    ),
    "arthroscopy-depth 2D resenc-tiny": (
        2,
        {"encoder": "resenc-tiny", "patch_size": (48, 64), "batch_size": 6, "classes": 2},
    ),
    "body-part-recognition 2D resenc-tiny": (
        2,
        {"encoder": "resenc-tiny", "patch_size": (96, 96), "spacing": None, "batch_size": 8},
    ),
    "body-part-recognition 2D resnet18": (
        2,
        {"encoder": "resnet18", "patch_size": (96, 96), "spacing": None, "batch_size": 4},
    ),
    "contrastive-rendering 3D resenc-tiny": (
        3,
        {"encoder": "resenc-tiny", "patch_size": (32, 32, 32), "batch_size": 2},
    ),
    "context-restoration 2D unet": (
        2,
        {"encoder": "unet", "patch_size": (64, 64), "batch_size": 2},
    ),
    "context-restoration 3D resenc-tiny": (
        3,
        {"encoder": "resenc-tiny", "patch_size": (32, 32, 32), "batch_size": 2},
    ),
    "endoscopic-recolorization 2D resenc-tiny": (
        2,
        {
            "encoder": "resenc-tiny",
            "patch_size": (96, 96),
            "frame_size": 96,
            "crop": "random",
            "critic_width": 16,
            "critic_layers": 2,
            "batch_size": 4,
        },
    ),
    "fmri-reconstruction 2D caffenet": (
        2,
        {
            "patch_size": (112, 112),
            "batch_size": 16,
            "unpaired": 4,
            "voxels": 1000,
            "test_responses": True,
        },
    ),
    "models-genesis 3D unet": (3, {"encoder": "unet", "patch_size": (16, 16, 16), "batch_size": 2}),
    "models-genesis 3D resenc-tiny": (
        3,
        {"encoder": "resenc-tiny", "patch_size": (32, 32, 32), "batch_size": 2},
    ),
    "models-genesis 2D unet": (2, {"encoder": "unet", "patch_size": (64, 64), "batch_size": 2}),
    "models-genesis 2D resnet18": (
        2,
        {"encoder": "resnet18", "patch_size": (96, 96), "batch_size": 4},
    ),
    "c2l 2D resnet18": (
        2,
        {"encoder": "resnet18", "patch_size": (96, 96), "batch_size": 8, "queue": 1024},
    ),
    "global-local-contrast 2D unet-6": (
        2,
        {"encoder": "unet-6", "patch_size": (64, 64), "batch_size": 2, "local_batch_size": 8},
    ),
    "gloria 2D resnet18": (
        2,
        {
            "encoder": "resnet18",
            "patch_size": (96, 96),
            "image_size": 128,
            "enlarge": 0,
            "batch_size": 8,
        },
    ),
    "multimodal-puzzles 2D resenc-tiny": (
        2,
        {"encoder": "resenc-tiny", "patch_size": (96, 96), "batch_size": 8, "features": 64},
    ),
    "pgl 3D unet": (3, {"patch_size": (16, 16, 16), "batch_size": 2, "hidden": 256}),
    "pgl 3D resenc-tiny": (
        3,
        {"encoder": "resenc-tiny", "patch_size": (32, 32, 16), "batch_size": 2, "hidden": 256},
    ),
    "pcrl 2D resnet18": (
        2,
        {"encoder": "resnet18", "patch_size": (96, 96), "batch_size": 4, "queue": 1024},
    ),
    "pcrl 3D resenc-tiny": (
        3,
        {
            "encoder": "resenc-tiny",
            "patch_size": (32, 32, 32),
            "batch_size": 2,
            "queue": 1024,
        },
    ),
    "refers 2D resnet18": (
        2,
        {
            "encoder": "resnet18",
            "patch_size": (96, 96),
            "image_size": 128,
            "decoder_width": 128,
            "decoder_heads": 8,
            "batch_size": 4,
        },
    ),
    "rubiks-cube 3D unet": (3, {"encoder": "unet", "patch_size": (16, 16, 16), "batch_size": 2}),
    "rubiks-cube 3D resenc-tiny": (
        3,
        {"encoder": "resenc-tiny", "patch_size": (16, 16, 16), "batch_size": 2},
    ),
    "rubiks-cube-plus 3D resenc-tiny": (
        3,
        {"encoder": "resenc-tiny", "patch_size": (16, 16, 16), "batch_size": 2},
    ),
    "rubiks-cube-volume-wise 3D resenc-tiny": (
        3,
        {
            "encoder": "resenc-tiny",
            "patch_size": (24, 24, 24),
            "side": 6,
            "critic_width": 8,
            "critic_layers": 2,
            "batch_size": 2,
        },
    ),
    "self-loop-uncertainty 2D resenc-tiny": (
        2,
        {
            "encoder": "resenc-tiny",
            "patch_size": (96, 96),
            "batch_size": 2,
            "updates": 4,
            "label_fraction": 0.5,
            "label_values": (1, 2, 3),
        },
    ),
    "shape-landmarks 2D landmark-cnn": (
        2,
        {"patch_size": (64, 64), "batch_size": 4, "ranking_batches": 1},
    ),
    "superpixel-fewshot 2D resnet18": (
        2,
        {"encoder": "resnet18", "patch_size": (96, 96), "batch_size": 2, "min_size": 100},
    ),
    "supervoxel-inpainting 3D unet-shallow": (
        3,
        {"patch_size": (32, 32, 16), "batch_size": 2, "segments": 12, "smallest_region": 200},
    ),
    "spinal-mri 3D thin-cnn": (3, {"patch_size": (5, 64, 64), "batch_size": 4}),
    "spinal-mri 3D thin-cnn-16": (
        3,
        {"encoder": "thin-cnn-16", "patch_size": (5, 64, 64), "batch_size": 8},
    ),
    "volume-context 2D context-cnn": (2, {"patch_size": (42, 42), "batch_size": 8}),
    "cytoarchitectonic-siamese 2D resnet18": (
        2,
        {"encoder": "resnet18", "patch_size": (64, 64), "batch_size": 8, "least_tissue": 0.1},
    ),
    "surrogate-supervision 2D resnet18": (
        2,
        {"encoder": "resnet18", "patch_size": (64, 64), "batch_size": 4},
    ),
    "surrogate-supervision 3D resenc-tiny": (
        3,
        {
            "task": "reconstruction",
            "encoder": "resenc-tiny",
            "patch_size": (32, 32, 32),
            "batch_size": 2,
            "critic_width": 8,
        },
    ),
    "af-seg 2D care-unet-tiny": (
        2,
        {
            "encoder": "care-unet-tiny",
            "patch_size": (64, 64),
            "batch_size": 4,
            "critic_width": 16,
            "critic_layers": 2,
            "objects": "rarer",
        },
    ),
    "voidseg 2D care-unet-tiny": (
        2,
        {"encoder": "care-unet-tiny", "patch_size": (64, 64), "batch_size": 8},
    ),
    "voidseg 2D care-unet": (2, {"patch_size": (64, 64), "batch_size": 2}),
}
FULL = {
    "anatomical-position 2D unet": (2, {}),
    "arthroscopy-depth 2D unet": (2, {"classes": 2}),
    "body-part-recognition 2D resnet18": (2, {"spacing": None}),
    "context-restoration 2D unet": (2, {"patch_size": (224, 288)}),
    "endoscopic-recolorization 2D resenc-l": (2, {"encoder": "resenc-l"}),
    "fmri-reconstruction 2D caffenet": (2, {"voxels": 4500, "test_responses": True}),
    "c2l 2D resnet18": (2, {"encoder": "resnet18", "patch_size": (224, 224), "batch_size": 128}),
    "models-genesis 3D unet": (3, {"encoder": "unet", "patch_size": (64, 64, 32), "batch_size": 6}),
    "models-genesis 3D resenc-l": (
        3,
        {"encoder": "resenc-l", "patch_size": (96, 96, 96), "batch_size": 4},
    ),
    "models-genesis 2D unet": (2, {"encoder": "unet", "patch_size": (256, 256), "batch_size": 16}),
    "global-local-contrast 2D unet-6": (2, {"encoder": "unet-6", "patch_size": (192, 192)}),
    "gloria 2D resnet50": (2, {"encoder": "resnet50", "batch_size": 48}),
    "multimodal-puzzles 2D unet": (2, {}),
    "pgl 3D unet": (3, {"batch_size": 16}),
    "pcrl 2D resnet18": (2, {"encoder": "resnet18", "patch_size": (224, 224), "batch_size": 64}),
    "pcrl 3D unet": (3, {}),
    "refers 2D vit": (2, {}),
    "rubiks-cube 3D unet": (3, {"encoder": "unet", "patch_size": (64, 64, 64), "batch_size": 8}),
    "rubiks-cube-plus 3D unet": (
        3,
        {"encoder": "unet", "patch_size": (64, 64, 64), "batch_size": 8},
    ),
    "rubiks-cube-volume-wise 3D unet": (3, {"patch_size": (112, 112, 112), "batch_size": 2}),
    "self-loop-uncertainty 2D resnet18": (2, {"label_fraction": 0.5, "label_values": (1, 2, 3)}),
    "shape-landmarks 2D landmark-cnn": (2, {"ranking_batches": 1}),
    "superpixel-fewshot 2D resnet50": (2, {"batch_size": 8}),
    "spinal-mri 3D thin-cnn": (3, {"batch_size": 8}),
    "volume-context 2D context-cnn": (2, {}),
    "cytoarchitectonic-siamese 2D section-cnn": (2, {"least_tissue": 0.1}),
    "surrogate-supervision 2D resnet18": (2, {"patch_size": (224, 224), "batch_size": 64}),
    "surrogate-supervision 3D resnet18": (3, {"batch_size": 8}),
    "voidseg 2D care-unet": (2, {"patch_size": (64, 64), "batch_size": 128}),
    "af-seg 2D unet": (2, {"objects": "rarer"}),
}
#: samples that a scan gives in an epoch
PER_SCAN = 64
#: where a section lies, for methods that ask: 10 units wide and high
PLANE = (0.0, 0.0, 0.0, 10.0, 0.0, 0.0, 0.0, 10.0, 0.0)
#: methods that learn from pictures and a brain's responses to them
BRAINS = {"fmri-reconstruction"}
#: methods that learn from studies with planes of several views
HEARTS = {"anatomical-position"}
#: methods that learn from people who were scanned again
VISITS = {"spinal-mri"}
#: methods that learn from stereo pairs, and from masks of single frames beside them
STEREO = {"arthroscopy-depth"}
#: methods that learn from masks too
MASKED = {"self-loop-uncertainty"}
#: patches that a scan must hold side by side, where that is more than one: by slug
PATCHES_ALONG = {"rubiks-cube": 2, "rubiks-cube-plus": 2}


def bare_times(method: Method, phase: Phase, batch: Any, fabric: Any, steps: int) -> float:
    """Seconds of a bare step, the mean over a few."""
    optimisers = {
        name: fuse(method.optimiser(name, each)[0]) for name, each in phase.trains.items()
    }
    method.train()
    began = 0.0
    for number in range(steps + 1):
        if number == 1:
            synchronise(fabric)
            began = time.perf_counter()
        updates = phase.step(batch)
        while True:
            with fabric.autocast():
                update = next(updates, None)
            if update is None:
                break
            optimisers[update.of].zero_grad()
            update.loss.backward()
            if update.clip is not None:
                held = [p for group in optimisers[update.of].param_groups for p in group["params"]]
                torch.nn.utils.clip_grad_norm_(held, update.clip)
            optimisers[update.of].step()
    synchronise(fabric)
    return (time.perf_counter() - began) / steps


def loop_times(
    method: Method,
    phase: Phase,
    records: Any,
    settings: Settings,
    folder: RunFolder,
    made: Any,
    steps: int,
) -> tuple[float, float]:
    """Seconds of a step of the whole loop, the mean over a few, and the share of waiting."""
    marks: list[float] = []
    fabric, arithmetic = made

    def marked(batch: Any) -> Any:
        if len(marks) in (1, steps + 1):
            synchronise(fabric)
        marks.append(time.perf_counter())
        yield from phase.step(batch)

    alone = replace(phase, step=marked, share=1.0)
    method.phases = lambda: (alone,)  # type: ignore[method-assign]
    result = train(method, records, (), settings, folder, fabric=fabric, arithmetic=arithmetic)
    return (marks[steps + 1] - marks[1]) / steps, result.wait_share


def synchronise(fabric: Any) -> None:
    if fabric.device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--only", metavar="SLUG")
    parser.add_argument("--name")
    asked = parser.parse_args()
    if asked.steps % AHEAD:
        parser.error(
            f"--steps {asked.steps}: a multiple of {AHEAD}, the batches that are made at a time"
        )
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        for label, (dims, values) in (FULL if asked.full else SMALL).items():
            slug = label.split()[0]
            if asked.only not in (None, slug):
                continue
            kind = find(slug)
            # eight scans stand for an archive: an epoch has more steps than are measured
            values = {"samples_per_scan": PER_SCAN, **values}
            options = kind.options_class(steps=asked.steps + AHEAD + 1, dims=dims, **values)
            edge = PATCHES_ALONG.get(slug, 1) * max(options.patch_size) + 32
            solid = dims == 3 or kind.needs.volumes or kind.needs.unit is Unit.SLICE
            labelled = "mask" in kind.needs.metadata
            scans = Path(place, f"scans{2 + solid}-{edge}{'-labelled' * labelled}")
            if slug in HEARTS:
                size = {"edge": edge, "pixel": 180 / edge, "slices": 10}
                scans = write_hearts(Path(place, slug), studies=8, **size)
            elif slug in VISITS:
                scans = write_spines(Path(place, slug), dims=dims)
            elif kind.needs.unit is Unit.STUDY and "report" not in kind.needs.metadata:
                shape = (edge, edge, 32)
                scans = write_modalities(Path(place, slug), patients=8, shape=shape)
            elif slug in BRAINS:
                sizes = {"tested": 20, "voxels": options.voxels, "edge": options.patch_size[0]}
                scans = write_subject(Path(place, slug), **sizes)
            elif slug in STEREO:
                scans = write_stereo(Path(place, slug), objects=8, patients=8, shape=(edge, edge))
            elif kind.needs.colour:
                scans = write_frames(Path(place, slug), edge=edge)
            elif slug in MASKED:
                images = write_patients(
                    Path(place, slug), patients=8, shape=(edge, edge), labelled=True
                )
                rows = [
                    {"image": f"images/{one.name}", "mask": f"labels/{one.name}"} for one in images
                ]
                scans = write_manifest(Path(place, slug, "scans.csv"), rows)
            elif not scans.exists():
                thick = 32 if kind.needs.unit is Unit.SLICE else edge
                shape = (edge,) * dims if not solid else (edge, edge, thick)
                write_patients(scans, patients=8, shape=shape, labelled=labelled)
            sources = index_scans(scans, labelled=labelled).sources
            if "report" in kind.needs.metadata:
                sources = [replace(source, report=REPORT) for source in sources]
            if "position" in kind.needs.metadata:
                sources = [replace(source, position=PLANE) for source in sources]
            records = (
                open_store(kind, options, Path(place, "cache"))
                .prepare(sources, rule=kind.intensity(options))
                .records
            )
            settings = Settings(quiet=True, workers=asked.workers, checkpoint_minutes=60)
            made = make_fabric(settings)
            method = build_method(kind, options, dims=dims, channels=1)
            phases = method.phases()
            for phase in phases:
                name = label if len(phases) == 1 else f"{label}: {phase.name}"
                loops, bares, waits = [], [], []
                batch = held_out_batch(phase, items_of(phase, records), seed=0, number=0)
                for round_ in range(asked.rounds + 1):
                    folder = RunFolder(Path(place, f"{label}-{phase.name}-{round_}"))
                    folder.create(resume=False)
                    seconds, wait = loop_times(
                        method, phase, records, settings, folder, made, asked.steps
                    )
                    bare = bare_times(method, phase, made[0].to_device(batch), made[0], asked.steps)
                    if round_:
                        loops.append(seconds)
                        bares.append(bare)
                        waits.append(wait)
                ratios = [b / s for b, s in zip(bares, loops, strict=True)]
                figures[name] = {
                    **{n: list(v) if isinstance(v, tuple) else v for n, v in values.items()},
                    "bare_step_s": statistics.median(bares),
                    "loop_step_s": statistics.median(loops),
                    "loop_rate_over_bare_rate": statistics.median(ratios),
                    "wait_share": statistics.median(waits),
                }
    keep(asked.name or "-".join(filter(None, ["pretraining_rate", asked.only])), figures)


if __name__ == "__main__":
    main()
