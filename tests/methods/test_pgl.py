"""Every must-have of PGL, and that a small network learns what lies where on real scans."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hippocampi import hippocampi
from torch import nn
from torch.utils.data import default_collate

from unlabeled.data.intensity import IntensityRule
from unlabeled.errors import DataError, OptionError, ScanError
from unlabeled.losses.consistency import voxelwise_consistency
from unlabeled.methods._base import parameters
from unlabeled.methods.pgl import Options, PriorGuidedLocal, Sample
from unlabeled.nn.alignment import align, shared_places
from unlabeled.nn.encoders import Encoder, build_encoder
from unlabeled.nn.optimisers import LARS
from unlabeled.rng import generator
from unlabeled.training.pretrain import pretrain
from unlabeled.transforms.overlapping import Box

SMALL = {"patch_size": (16, 16, 8), "stride": 4, "hidden": 16, "features": 8}
PLAIN = {"p_noise": 0.0, "p_blur": 0.0, "p_gain": 0.0, "p_gamma": 0.0}
SPACE = (34, 40, 14)
STEPS = 300
BAR = 2.3  # times chance; 3.1 with the pairs' own geometry, 1.7 with that of others


class Held:
    """A record in memory: an image that is already under its intensity rule."""

    def __init__(self, array: torch.Tensor) -> None:
        self.array = array
        self.space = tuple(array.shape[1:])

    def patch(self, start, size) -> torch.Tensor:
        where = [slice(at, at + edge) for at, edge in zip(start, size, strict=True)]
        patch = self.array[(slice(None), *where)]
        assert patch.shape[1:] == tuple(size), "a view looks beyond the scan"
        return patch.clone()


class Blocks(Encoder):
    """Means of blocks of voxels: mirrors as its image does."""

    name = "blocks"
    entry = "none"

    def __init__(self, edge: int, channels: int = 1) -> None:
        super().__init__()
        self.dims, self.in_channels = 3, channels
        self.channels, self.strides = (channels,), ((edge,) * 3,)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [F.avg_pool3d(image, self.strides[0])]


class Narrow(Encoder):
    """Two halvings by maxima and four convolutions, so that a proof takes a minute or two."""

    name = "narrow"
    entry = "blocks.0.0"

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.dims, self.in_channels = 3, in_channels
        self.channels, self.strides = (8, 16, 32), ((1,) * 3, (2,) * 3, (4,) * 3)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(entering, leaving, 3, padding=1),
                nn.BatchNorm3d(leaving),
                nn.ReLU(),
            )
            for entering, leaving in zip((in_channels, 8, 16), self.channels, strict=True)
        )

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        maps: list[torch.Tensor] = []
        for block in self.blocks:
            image = block(F.max_pool3d(image, 2) if maps else image)
            maps.append(image)
        return maps


def positions(space: tuple[int, ...] = SPACE) -> Held:
    """A volume that holds its own positions, one axis a channel."""
    lines = [torch.arange(edge, dtype=torch.float32) for edge in space]
    return Held(torch.stack(torch.meshgrid(*lines, indexing="ij")))


def noise(channels: int = 1, space: tuple[int, ...] = SPACE) -> Held:
    return Held(torch.randn(channels, *space, generator=generator(0, "noise")))


def method(encoder: str = "resenc-tiny", **options) -> PriorGuidedLocal:
    torch.manual_seed(0)
    made = build_encoder(encoder, dims=3)
    return PriorGuidedLocal(Options(**{**SMALL, **options}), made)


def bare(record: Held, edge: int, **options) -> PriorGuidedLocal:
    """A method whose networks give means of blocks of the image itself."""
    channels = len(record.array)
    made = PriorGuidedLocal(Options(**{**SMALL, **PLAIN, **options}), Blocks(edge, channels))
    made.projector.head = nn.Identity()
    made.predictor = nn.Identity()
    made.teacher.copies[1].head = nn.Identity()
    return made


def batch_of(small: PriorGuidedLocal, count: int = 3, record: Held | None = None) -> Sample:
    record = record or noise()
    return default_collate([small.views(record, generator(seed)) for seed in range(count)])


def run(small: PriorGuidedLocal, batch: Sample) -> dict[str, float]:
    """Do one step as the loop does; give what the log would show, with the loss."""
    optimiser, _ = small.optimiser("main", [small])
    (shown,) = (
        _follow(optimiser, update.loss, {"loss": update.loss, **update.shows})
        for update in small.step(batch)
    )
    return {name: float(value.detach()) for name, value in shown.items()}


def _follow(optimiser, loss, shown):
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return shown


def test_must_have_1_the_record_of_a_view_makes_it_again():
    small, record = method(**PLAIN), noise()
    seen = set()
    for seed in range(20):
        sample = small.views(record, generator(seed))
        for view, box, flips in zip(sample[:2], sample.boxes, sample.flips, strict=True):
            start, stop = (tuple(int(end) for end in ends) for ends in box.T)
            assert torch.equal(view, small.cut(record, Box(start, stop), flips))
            seen.add(tuple(flips.tolist()))
        assert sample.boxes.shape == (2, 3, 2)
    assert len(seen) == 8
    changed = method().views(record, generator(3))
    plain = small.views(record, generator(3))
    assert torch.equal(changed.boxes, plain.boxes)
    assert torch.equal(changed.flips, plain.flips)


def test_must_have_2_aligned_maps_of_positions_agree():
    """To half a voxel of a view, which is what its outermost half voxel repeats; exactly further in."""
    record = positions()
    small = method(**PLAIN)
    for seed in range(30):
        batch = default_collate([small.views(record, generator(seed))])
        places = shared_places(batch.boxes)
        maps = [
            align(view, places[:, n], batch.flips[:, n])
            for n, view in enumerate((batch.first, batch.second))
        ]
        scale = (batch.boxes[..., 1] - batch.boxes[..., 0])[0] / torch.tensor(small.patch)
        apart = (maps[0] - maps[1]).abs().amax((0, 2, 3, 4))
        assert (apart / scale.amax(0) < 0.5).all()
        inner = [slice(each // 4, -(each // 4)) for each in small.patch]
        assert ((maps[0] - maps[1])[(..., *inner)]).abs().max() < 1e-3
        low, high = batch.boxes[0, :, :, 0].amax(0), batch.boxes[0, :, :, 1].amin(0)
        middle = maps[0].mean((0, 2, 3, 4))
        torch.testing.assert_close(middle, (low + high - 1) / 2, rtol=0, atol=0.3)


def test_must_have_3_mirroring_a_view_and_saying_so_changes_nothing():
    record = noise(3)
    small = bare(record, 4)
    batch = batch_of(small, record=record)
    before, _ = small.compare(batch)
    for axis in range(3):
        flips = batch.flips.clone()
        flips[:, 1, axis] ^= True
        mirrored = batch._replace(second=batch.second.flip(axis + 2), flips=flips)
        after, _ = small.compare(mirrored)
        assert float(after) == pytest.approx(float(before), abs=1e-5)
        wrong, _ = small.compare(batch._replace(second=batch.second.flip(axis + 2)))
        assert abs(float(wrong) - float(before)) > 0.01


def symmetric(encoder: Encoder) -> Encoder:
    """Make every convolution the same from either side, along all axes, and let each have its say."""
    with torch.no_grad():
        for each in encoder.modules():
            if isinstance(each, nn.InstanceNorm3d):
                each.weight.fill_(1.0)  # residual blocks start as their shortcuts
            if isinstance(each, nn.Conv3d):
                for axis in (2, 3, 4):
                    each.weight.copy_((each.weight + each.weight.flip(axis)) / 2)
    return encoder.eval()


@pytest.mark.parametrize(("name", "exact"), [("unet", True), ("resenc-tiny", False)])
def test_cells_of_the_default_encoder_mirror_onto_each_other(name, exact):
    """Halving by maxima keeps blocks of voxels; strided convolutions move a cell's middle to one side."""
    encoder = symmetric(build_encoder(name, dims=3))
    image = torch.randn(1, 1, 16, 16, 16, generator=generator(0))
    with torch.no_grad():
        upright, mirrored = (encoder(each)[-1] for each in (image, image.flip(2)))
    same = torch.allclose(upright.flip(2), mirrored, atol=1e-4)
    assert same == exact
    assert Options().encoder == "unet"


def test_must_have_4_boxes_of_real_sizes_overlap_enough():
    """The golden boxes are matched in the test of the geometry."""
    boxes = PriorGuidedLocal(Options(hidden=8), build_encoder("unet", dims=3)).boxes
    shares = []
    for seed in range(300):
        pair = torch.tensor(
            [list(zip(*box, strict=True)) for box in boxes.draw((400, 400, 40), generator(seed))]
        )
        edges = pair[..., 1] - pair[..., 0]
        assert (edges[:, :2] >= 106).all()
        assert (edges[:, :2] <= 134).all()
        assert edges[:, 2].tolist() == [16, 16]
        assert torch.equal(pair[0, 2], pair[1, 2])
        both = (pair[:, :2, 1].amin(0) - pair[:, :2, 0].amax(0)).clamp(min=0).prod()
        shares.append(float(both / (edges[:, :2].prod(1).sum() - both)))
    assert 0.1 <= min(shares) < 0.12
    assert max(shares) > 0.6


def test_must_have_5_the_loss_is_voxelwise(golden):
    """Both directions with the golden maps cost twice the golden number."""
    arrays = np.load(golden / "pgl" / "consistency_loss.npz")
    prediction, target = (torch.from_numpy(arrays[name]) for name in ("prediction", "target"))
    small = bare(noise(), 4)
    small.projector.cells = (2, 3, 3)
    small.student = lambda views: prediction
    small.teacher.forward = lambda views: target  # type: ignore[method-assign]
    same = torch.tensor([0.0, 20.0]).expand(2, 2, 3, 2)
    batch = Sample(prediction, target, same, torch.zeros(2, 2, 3, dtype=torch.bool))
    loss, _ = small.compare(batch)
    assert float(loss) == pytest.approx(2 * float(arrays["loss_voxelwise_mean"]), abs=2e-5)


def test_must_have_6_exchanging_the_views_changes_nothing():
    small = method()
    batch = batch_of(small)
    exchanged = Sample(batch.second, batch.first, batch.boxes.flip(1), batch.flips.flip(1))
    before, after = (small.compare(each)[0].detach() for each in (batch, exchanged))
    assert float(before) == pytest.approx(float(after), rel=1e-5)


def test_must_have_7_bounds():
    record = noise(3)
    small = bare(record, 4)
    batch = batch_of(small, record=record)
    assert 0 <= float(small.compare(batch)[0]) <= 8
    student = small.student
    small.student = lambda views: -7 * student(views)
    same = batch._replace(
        second=batch.first,
        boxes=batch.boxes[:, :1].expand_as(batch.boxes),
        flips=batch.flips[:, :1].expand_as(batch.flips),
    )
    assert float(small.compare(same)[0]) == pytest.approx(8, abs=1e-4)
    small.student = lambda views: 7 * student(views)
    assert float(small.compare(same)[0]) == pytest.approx(0, abs=1e-4)


def test_must_have_8_the_teacher_has_no_gradient_no_optimiser_and_no_predictor():
    small = method()
    calls = []
    small.predictor.register_forward_hook(lambda *_: calls.append(1))
    run(small, batch_of(small))
    assert len(calls) == 2  # the student's, once a view
    assert all(each.grad is None for each in small.teacher.parameters())
    moved = {id(each) for each in parameters([small])}
    own = [small.encoder, small.projector, small.predictor]
    assert moved == {id(each) for part in own for each in part.parameters()}
    assert not moved & {id(each) for each in small.teacher.parameters()}
    assert len(small.teacher.copies) == 2


def test_must_have_9_the_momentum_rises_over_the_planned_steps():
    """Steps are planned as the loop makes them; 0.99, 0.995 and 1 at the beginning, half way and the end."""
    small = method(epochs=4, batch_size=3, samples_per_scan=2)
    small.begin([None] * 7)
    assert small.steps.tolist() == [0, 16]
    limited = method(epochs=4, batch_size=3, steps=9)
    limited.begin([None] * 20)
    assert limited.steps.tolist() == [0, 9]
    used: list[float] = []
    for made, expected in (
        (method(), [0.99, 0.995, 1.0, 1.0]),
        (method(momentum=0.999, momentum_schedule="constant"), [0.999] * 4),
    ):
        made.steps.copy_(torch.tensor([0, 2]))
        made.teacher.follow = lambda *_, momentum: used.append(momentum)  # type: ignore[method-assign]
        batch = batch_of(made, 2)
        for _ in range(4):
            run(made, batch)
        assert used == pytest.approx(expected)
        assert made.steps.tolist() == [4, 2]
        used.clear()


def test_the_teacher_follows_after_the_step():
    small = method(momentum=0.9)
    before = [each.clone() for each in small.teacher.parameters()]
    run(small, batch_of(small))
    student = [*small.encoder.parameters(), *small.projector.parameters()]
    for old, own, new in zip(before, student, small.teacher.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * own)


def test_the_teacher_starts_as_a_copy_whatever_the_student_started_from():
    small = method()
    with torch.no_grad():
        for each in small.encoder.parameters():
            each.add_(1.0)  # as --init does after the networks are made
    (phase,) = small.phases()
    phase.before([None] * 3)
    student = [*small.encoder.parameters(), *small.projector.parameters()]
    assert all(map(torch.equal, student, small.teacher.parameters()))


def test_must_have_10_the_same_view_twice_costs_nothing():
    small = method()
    small.predictor = nn.Identity()
    batch = batch_of(small)
    twice = batch._replace(
        second=batch.first,
        boxes=batch.boxes[:, :1].expand_as(batch.boxes),
        flips=batch.flips[:, :1].expand_as(batch.flips),
    )
    assert float(small.compare(twice)[0].detach()) == pytest.approx(0, abs=1e-5)
    assert float(small.compare(batch)[0].detach()) > 0.01


def test_must_have_11_the_same_upright_box_is_not_changed():
    """The loss of two maps of one box is that of the maps themselves."""
    record = noise(3)
    small = bare(record, 4)
    batch = batch_of(small, record=record)
    upright = batch._replace(
        boxes=batch.boxes[:, :1].expand_as(batch.boxes), flips=torch.zeros_like(batch.flips)
    )
    first, second = (F.avg_pool3d(view, 4) for view in (batch.first, batch.second))
    plain = voxelwise_consistency(first, second) + voxelwise_consistency(second, first)
    assert float(small.compare(upright)[0]) == pytest.approx(float(plain.mean()), abs=1e-4)


def test_must_have_12_the_carried_encoder_is_the_students(tmp_path):
    from unlabeled.nn.weights import load_encoder
    from unlabeled.training.pretrain import write_encoder

    small = method()
    run(small, batch_of(small))
    assert set(small.carries()) == {"encoder"}
    record = SimpleNamespace(
        channels=1,
        affine=None,
        spacing=None,
        modality="CT",
        rule=small.intensity(small.options),
        key="a",
        subject="one",
        source=SimpleNamespace(name="abdomen.nii.gz"),
    )
    folder = SimpleNamespace(encoder=tmp_path / "encoder.safetensors")
    write_encoder(small, "pgl", small.options, [record], folder)
    again, metadata = load_encoder(folder.encoder)
    assert metadata["slug"] == "pgl"
    held = small.encoder.state_dict()
    assert again.state_dict().keys() == held.keys()
    assert all(torch.equal(value, held[name]) for name, value in again.state_dict().items())


def test_must_have_13_without_alignment_it_is_dense_byol():
    """Features at the same cell of either patch, whatever the boxes; nothing is skipped."""
    record = noise(3)
    small = bare(record, 4, alignment=False)
    batch = batch_of(small, record=record)
    apart = batch._replace(boxes=batch.boxes + 1000 * torch.arange(2)[:, None, None])
    first, second = (F.avg_pool3d(view, 4) for view in (batch.first, batch.second))
    plain = voxelwise_consistency(first, second) + voxelwise_consistency(second, first)
    for each in (batch, apart):
        loss, told = small.compare(each)
        assert float(loss) == pytest.approx(float(plain.mean()), abs=1e-5)
        assert float(told["skipped"]) == 0
        assert float(told["overlap"]) == 1
    aligned, _ = bare(record, 4).compare(batch)
    assert abs(float(aligned) - float(plain.mean())) > 0.01


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_must_have_14_pairs_that_share_less_than_a_cell_are_skipped_and_counted(axis):
    small = method(**PLAIN)
    batch = batch_of(small, 2)
    boxes = torch.tensor([[0.0, 16.0], [0.0, 16.0], [0.0, 8.0]]).repeat(2, 2, 1, 1)
    cell = 4.0
    boxes[0, 1, axis] += boxes[0, 0, axis, 1] - cell + 0.5  # shares 3.5 voxels
    batch = batch._replace(boxes=boxes)
    small.eval()
    loss, told = small.compare(batch)
    alone, _ = small.compare(Sample(*(part[1:] for part in batch)))
    assert float(loss.detach()) == pytest.approx(float(alone.detach()), rel=1e-4)
    assert float(told["skipped"]) == 0.5
    boxes[0, 1, axis] -= 0.5
    assert float(small.compare(batch)[1]["skipped"]) == 0
    small.train()
    nothing = batch._replace(boxes=boxes + torch.tensor([0.0, 100.0])[:, None, None])
    shown = run(small, nothing)
    assert shown["loss"] == 0
    assert shown["skipped"] == 1
    assert all(each.isfinite().all() for each in small.parameters())


def test_what_the_log_shows():
    small = method(**PLAIN, least_overlap=0.5)
    shown = run(small, batch_of(small))
    assert list(shown) == ["loss", "cosine", "spread", "overlap", "skipped"]
    assert shown["cosine"] == pytest.approx(1 - shown["loss"] / 4, abs=1e-5)
    assert 0 < shown["spread"] <= 1
    assert 0.1 < shown["overlap"] < 1


def test_optimisers_and_their_rate():
    lars, schedule = method().optimiser("main", [nn.Linear(2, 2)])
    assert isinstance(lars, LARS)
    assert (lars.defaults["lr"], lars.defaults["weight_decay"]) == (0.2, 1.5e-6)
    assert [round(schedule(epoch, 500), 3) for epoch in (0, 1, 2, 251, 500)] == [0.001, 0.5, 1, 0.5, 0]  # fmt: skip
    sgd, _ = method(optimiser="sgd", lr=0.01).optimiser("main", [nn.Linear(2, 2)])
    assert sgd.defaults["momentum"] == 0.9
    adamw, schedule = method(optimiser="adamw", lr=1e-3, warmup=0.0).optimiser("main", [nn.Linear(2, 2)])  # fmt: skip
    assert isinstance(adamw, torch.optim.AdamW)
    assert schedule(0, 10) == 1


def test_intensities():
    assert PriorGuidedLocal.intensity(Options()) == IntensityRule(
        kind="zscore", ct=(-1024.0, 325.0)
    )


def test_score_of_features_that_tell_places():
    """Positions as features: every cell is found, and a target one cell further is less alike."""
    record = positions()
    record.array = torch.cat([(record.array / 6).sin(), (record.array / 6).cos()])
    small = bare(record, 4, least_overlap=0.3)
    batch = batch_of(small, 8, record)
    scores = {name: float(value) for name, value in small.score(batch).items()}
    assert scores["found"] > 0.95
    assert scores["chance"] < 0.6
    assert scores["cosine"] > 0.97
    assert scores["shifted"] < scores["cosine"] - 0.05
    assert scores["loss"] < 0.1
    flat = bare(record, 4)
    flat.student = lambda views: torch.ones(len(views), 6, *flat.projector.cells)
    flat.teacher.forward = lambda views: torch.ones(len(views), 6, *flat.projector.cells)  # type: ignore[method-assign]
    collapsed = flat.score(batch)
    assert float(collapsed["cosine"]) == pytest.approx(1, abs=1e-5)
    assert float(collapsed["spread"]) == pytest.approx(0, abs=1e-3)
    assert float(collapsed["found"]) < 0.7


def test_preview_shows_both_views_and_what_they_share():
    small = method(**PLAIN).eval()
    record = Held(positions().array.sum(0, keepdim=True))
    shown = small.preview(batch_of(small, 2, record))
    assert list(shown) == ["view", "other view", "shared, of view", "shared, of other", "features alike"]  # fmt: skip
    for image in shown.values():
        assert image.shape == (2, 1, 16, 16, 8)
        assert image.min() >= 0
        assert image.max() <= 1
    torch.testing.assert_close(
        shown["shared, of view"], shown["shared, of other"], rtol=0, atol=0.1
    )


def test_every_change_of_intensity_is_made():
    record, plain = noise(), method(**PLAIN).views(noise(), generator(0))
    for name in PLAIN:
        only = method(**{**PLAIN, name: 1.0}).views(record, generator(0))
        assert torch.equal(only.boxes, plain.boxes)
        assert not torch.equal(only.first, plain.first), name
        assert not torch.equal(only.second, plain.second), name


@pytest.mark.parametrize(
    ("options", "fact", "remedy"),
    [
        ({"patch_size": (16, 16)}, "--patch-size has 2 edges", "--patch-size 16 16 16"),
        ({"patch_size": (16, 18, 8)}, "cells of 4 voxels", "--patch-size 16 16 8"),
        ({"patch_size": (4, 4, 4)}, "cells of 4 voxels", "--patch-size 8 8 8"),
        ({"scale": (1.4, 1.1)}, "--scale is 1.4 1.1", "--scale 1.1 1.4"),
        ({"ct_window": (325.0, -1024.0)}, "--ct-window is 325 -1024", "--ct-window -1024 325"),
        ({"least_overlap": 0.8}, "--least-overlap is 0.8", "--least-overlap 0.61"),
        ({"optimiser": "adamw"}, "AdamW learns nothing", "--lr 0.001"),
        ({"momentum": 1.5}, r"--momentum is 1\.5", "0 to 1"),
        ({"optimiser": "adam"}, "not one of lars, sgd, adamw", ""),
    ],
)
def test_wrong_options_are_named(options, fact, remedy):
    with pytest.raises(OptionError, match=fact) as fault:
        method(**options)
    assert remedy in fault.value.remedy


def test_scans_far_shorter_than_a_patch_are_refused():
    options = Options(patch_size=(64, 64, 16))
    PriorGuidedLocal.require(SimpleNamespace(space=(32, 90, 8)), options)
    with pytest.raises(ScanError, match="has 30 voxels along axis 1") as fault:
        PriorGuidedLocal.require(SimpleNamespace(space=(30, 90, 8)), options)
    assert "--patch-size 24 64 8" in fault.value.remedy
    with pytest.raises(ScanError, match="has 3 voxels along axis 3") as fault:
        PriorGuidedLocal.require(SimpleNamespace(space=(90, 90, 3)), options)
    assert "Leave it out" in fault.value.remedy


def test_a_scan_shorter_than_a_box_gives_all_that_it_has():
    small = method(**PLAIN)
    sample = small.views(noise(space=(12, 40, 6)), generator(0))
    assert sample.first.shape == (1, 16, 16, 8)
    assert sample.boxes[:, 0].tolist() == [[0, 12]] * 2
    assert sample.boxes[:, 2].tolist() == [[0, 6]] * 2


def test_pictures_are_refused(tmp_path):
    from unlabeled.demo.phantoms import write_patients

    write_patients(tmp_path / "scans", patients=3, shape=(40, 40))
    with pytest.raises(DataError, match="2D picture"):
        pretrain("pgl", tmp_path / "scans", tmp_path / "run", cache=tmp_path / "cache", quiet=True)


@pytest.mark.parametrize("encoder", ["unet-shallow", "vit-tiny"])
def test_any_encoder_serves(encoder):
    small = method(encoder, patch_size=(16, 16, 16))
    shown = run(small, batch_of(small, 2, noise(space=(24, 24, 20))))
    assert math.isfinite(shown["loss"])


def learn(
    shared_data: Path, folder: Path, steps: int = STEPS, *, astray: bool = False, **options
) -> tuple[dict[str, float], dict[str, float], float]:
    """Pretrain on hippocampus MRI; scores of held-out subjects before and after, and seconds.

    With `astray`, every pair gets the geometry of another.
    """
    scans = hippocampi(shared_data, folder / "scans")
    values = {
        "patch_size": (24, 24, 16),
        "stride": 4,
        "hidden": 64,
        "features": 32,
        "optimiser": "adamw",
        "lr": 2e-3,
        "batch_size": 8,
        "samples_per_scan": 4,
        "held_out_batches": 8,
        "accelerator": "cpu",
        "quiet": True,
        **options,
    }
    step = PriorGuidedLocal.step

    def mixed(self: PriorGuidedLocal, batch: Sample):
        boxes, flips = (part.roll(1, 0) for part in batch[2:])
        return step(self, batch._replace(boxes=boxes, flips=flips))

    scores = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unlabeled.training.pretrain.build_encoder", lambda *_, in_channels, **__: Narrow(in_channels))  # fmt: skip
        if astray:
            patch.setattr(PriorGuidedLocal, "step", mixed)
        for count in (1, steps):
            done = pretrain(
                "pgl",
                scans,
                folder / f"run{count}",
                cache=folder / "cache",
                steps=count,
                score_every=count,
                **values,
            )
            scores.append(done.result.score)
    return scores[0], scores[1], done.result.seconds


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_on_real_scans(shared_data, tmp_path, proof):
    """On held-out hippocampus MRI, features tell where a cell of one patch lies in the other."""
    before, after, seconds = learn(shared_data, tmp_path)
    shown = {name: after[name] for name in ("found", "chance", "cosine", "shifted", "spread")}
    untrained = {"untrained": before["found"], "untrained spread": before["spread"]}
    proof("pgl", data="hippocampus-mri", **shown, **untrained, seconds=seconds)
    assert after["found"] > BAR * after["chance"]
    assert before["found"] < BAR * before["chance"]
    assert after["cosine"] > after["shifted"] + 0.1
    assert after["spread"] > 0.3


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_fails_with_the_geometry_of_other_pairs(shared_data, tmp_path, proof):
    """What is left is that views of so small scans lie much alike: there, too, a cell further is less similar."""
    _, after, _ = learn(shared_data, tmp_path, astray=True)
    shown = {name: after[name] for name in ("found", "chance", "cosine", "shifted", "spread")}
    proof("pgl", data="hippocampus-mri, geometry astray", **shown)
    assert after["found"] < BAR * after["chance"]
