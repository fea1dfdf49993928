"""Every must-have of global and local contrast, and that a small network learns from slices of real volumes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hippocampi import hippocampi
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import default_collate

from unlabeled.data.index import index_scans
from unlabeled.data.partitions import WholeVolumes
from unlabeled.data.scan import Grid, Scan
from unlabeled.data.store import Record
from unlabeled.demo.phantoms import write_patients
from unlabeled.errors import DataError, OptionError
from unlabeled.losses.partition_contrast import global_pairs
from unlabeled.losses.segmentation import dice_loss
from unlabeled.methods.global_local_contrast import (
    GlobalLocalContrast,
    GlobalSample,
    LocalSample,
    Options,
    nearest_slices,
)
from unlabeled.nn.checkpoints import read_weights
from unlabeled.nn.decoders import build_decoder
from unlabeled.nn.encoders import build_encoder
from unlabeled.nn.regions import REGION, grid_places
from unlabeled.rng import generator
from unlabeled.training.loader import held_out_batch, items_of, make_plan
from unlabeled.training.pretrain import build_method, open_store, pretrain
from unlabeled.training.selection import split_records
from unlabeled.transfer.finetune import finetune
from unlabeled.transfer.saved import load_task

SLUG = "global-local-contrast"
BOTH = pytest.mark.parametrize("fidelity", ["clean", "official"])
QUIET = {"quiet": True, "workers": 0, "accelerator": "cpu"}


class Held:
    """A volume in memory, ``channel *space``, already under its intensity rule."""

    def __init__(self, array: Tensor, percentiles: tuple[float, float] = (0.0, 1.0)) -> None:
        self.array = array
        self.space = tuple(array.shape[1:])
        self.image = self
        ends = np.array([[percentiles] * len(array)], np.float32)
        self.extras = {"percentiles": SimpleNamespace(whole=lambda: ends)}

    def patch(self, start: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
        out = torch.zeros(len(self.array), *size)
        inner = [slice(max(a, 0), min(a + n, e)) for a, n, e in zip(start, size, self.space, strict=True)]  # fmt: skip
        outer = [slice(i.start - a, i.stop - a) for i, a in zip(inner, start, strict=True)]
        out[(slice(None), *outer)] = self.array[(slice(None), *inner)]
        return out

    def read(self, start: tuple[int, ...], size: tuple[int, ...]) -> np.ndarray:
        return self.patch(start, size).numpy()


def numbered(slices: int, edge: int = 32) -> Held:
    """A volume whose slices hold their own number, over 100."""
    return Held((torch.arange(slices) / 100.0).expand(1, edge, edge, slices).clone())


def noisy(seed: int, slices: int = 12, edge: int = 40) -> Held:
    """A volume of noise, in [0.45, 0.9]."""
    return Held(0.45 + 0.45 * torch.rand(1, edge, edge, slices, generator=generator(seed, "noise")))


def method(encoder: str = "resenc-tiny", channels: int = 1, **options: Any) -> GlobalLocalContrast:
    torch.manual_seed(0)
    values = {"patch_size": (32, 32), "encoder": encoder, **options}
    return GlobalLocalContrast(
        Options(**values), build_encoder(encoder, dims=2, in_channels=channels)
    )


def batch_of(small: GlobalLocalContrast, stage: int, volumes: list[Held]) -> Any:
    """Make the batch of a stage, as the loader would, from as many volumes as are given."""
    phase = small.phases()[stage]
    made = {
        name: default_collate(
            [feed.views(each, generator(n, name)) for n, each in enumerate(volumes)]
        )
        for name, feed in phase.feeds.items()
    }
    return made if len(made) > 1 else next(iter(made.values()))


def run_step(small: GlobalLocalContrast, stage: int, batch: Any) -> float:
    """Perform one step of a stage as the loop would."""
    phase = small.train().phases()[stage]
    moved, _ = small.optimiser("main", phase.trains["main"])
    for update in phase.step(batch):
        moved.zero_grad()
        update.loss.backward()
        moved.step()
    return float(update.loss.detach())


@BOTH
def test_must_have_1_global_losses(golden: Path, fidelity: str) -> None:
    arrays = np.load(golden / SLUG / "global_loss.npz")
    minus = torch.from_numpy(arrays["gd_minus_embeddings"]).view(3, 3, 4, 32).transpose(0, 1)
    loss = method(global_loss="gd-minus", fidelity=fidelity).global_loss(minus)
    assert float(loss) == pytest.approx(float(arrays["gd_minus_loss"]), rel=1e-5)
    for name in ("gd", "gd_b8", "gd_zero_tail"):
        rows = torch.from_numpy(arrays[f"{name}_embeddings"]).view(-1, 2, 4, 32)
        loss = method(fidelity=fidelity).global_loss(rows)
        assert float(loss) == pytest.approx(float(arrays[f"{name}_loss"]), rel=1e-5)


@BOTH
def test_must_have_2_local_losses(golden: Path, fidelity: str) -> None:
    """Through the projector: with the published weight behind an idle mixture, maps give the published losses."""
    arrays = np.load(golden / SLUG / "local_loss.npz")
    for name, shape in (("lr", (3, 2, 1)), ("ld", (2, 3, 4))):
        small = method(local_loss=name, fidelity=fidelity)
        head = small.region_projector
        head.mix = nn.Identity()
        head.project = nn.Conv2d(6, 128, REGION, bias=False)
        weight = torch.from_numpy(arrays["projection"]).view(REGION, REGION, 6, 128)
        head.project.weight.data = weight.permute(3, 2, 0, 1).contiguous()
        maps = torch.from_numpy(arrays[f"{name}_feature_maps"]).permute(0, 3, 1, 2)
        regions = head(maps).view(*shape, 25, 128)
        loss = small.local_loss(regions if name == "lr" else regions.transpose(0, 1))
        assert float(loss.detach()) == pytest.approx(float(arrays[f"{name}_loss"]), rel=1e-5)
    assert grid_places(48, 5) == sorted({int(x) for x in arrays["positions_48x48"].flatten()})


def test_must_have_3_no_negative_shares_the_partition() -> None:
    """On indices, of the rows in the order of a batch."""
    partition = torch.arange(6 * 2 * 4) % 4
    for across in (False, True):
        _, negatives = global_pairs(6, 2, 4, across=across)
        assert torch.equal(negatives, partition[:, None] != partition)


def test_must_have_4_partners_are_the_same_partition_of_another_volume() -> None:
    pairs, _ = global_pairs(6, 2, 4, across=True)
    index = torch.arange(48)
    partition, volume = index % 4, index // 8
    first, second = pairs.nonzero().unbind(1)
    assert torch.equal(partition[first], partition[second])
    assert int((volume[first] != volume[second]).sum()) == 48 * 2
    phase = method().phases()[0]
    records = [noisy(seed) for seed in range(7)]
    plan = make_plan(phase, items_of(phase, records), seed=0, per_scan=1)
    for epoch in range(20):
        drawn = [index for _, _, _, index in plan.tickets(epoch, 0)]
        assert len(drawn) == len(set(drawn)) == 6
    official = method(fidelity="official").phases()[0]
    plan = make_plan(official, items_of(official, records), seed=0, per_scan=1)
    own = 0
    for epoch in range(40):
        drawn = [index for _, _, _, index in plan.tickets(epoch, 0)]
        own += sum(a == b for a, b in zip(drawn[:3], drawn[3:], strict=True))
    assert own > 0, "independent draws never met"


def coded(small: GlobalLocalContrast, codes: np.ndarray) -> Tensor:
    """Images of one value each, ``row channel *space``."""
    return torch.from_numpy(codes.astype(np.float32) / 5000)[:, None, None, None].expand(-1, 1, 32, 32)  # fmt: skip


def test_must_have_5_batch_layout_and_zero_tail(golden: Path) -> None:
    arrays = np.load(golden / SLUG / "batch_layout.npz")
    codes = arrays["gd_row_codes"]
    seen: list[Tensor] = []
    for fidelity in ("official", "clean"):
        small = method(fidelity=fidelity, brightness=0.0, contrast=0.0)
        full = np.where(codes == 0, 4990, codes)  # what the published code leaves empty
        slices, copies = coded(small, full).reshape(6, 2, 4, 1, 32, 32).unbind(1)
        sample = GlobalSample(slices, copies[:, None], torch.tensor([0.0, 1.0]).expand(6, 1, 4, 2))
        halves = [GlobalSample(*(part[k::2] for part in sample)) for k in (0, 1)]
        batch = {"first": halves[0], "second": halves[1]} if fidelity == "official" else sample
        small.embed = lambda images: seen.append(images) or torch.zeros(*images.shape[:3], 128, requires_grad=True)  # fmt: skip
        next(iter(small.step(batch)))
        rows = seen[-1].flatten(0, 2).mean((1, 2, 3)) * 5000
        expected = codes if fidelity == "official" else full
        np.testing.assert_allclose(rows, expected, atol=0.05)
    pairs = arrays["two_view_row_codes"]
    small = method(brightness=0.0, contrast=0.0)
    slices = coded(small, pairs[::2]).unsqueeze(1)
    versions = small.versions(LocalSample(slices, torch.tensor([0.0, 1.0]).expand(12, 2, 1, 2)))
    np.testing.assert_allclose(
        versions.flatten(0, 2).mean((1, 2, 3)) * 5000, np.repeat(pairs[::2], 2), atol=0.05
    )


def test_must_have_6_every_slice_is_drawn_unless_official() -> None:
    record = numbered(10)
    drawn: dict[str, list[set[int]]] = {}
    for fidelity in ("clean", "official"):
        small = method(fidelity=fidelity)
        parts = [
            (small.views(record, generator(seed)).slices.amax((1, 2, 3)) * 100).round().int()
            for seed in range(200)
        ]
        drawn[fidelity] = [set(column.tolist()) for column in torch.stack(parts, 1)]
    assert drawn["clean"] == [{0, 1}, {2, 3, 4}, {5, 6, 7}, {8, 9}]
    assert drawn["official"] == [{0, 1}, {2, 3}, {4, 5}, {6, 7}]


def test_must_have_7_crops_and_intensities(golden: Path) -> None:
    arrays = np.load(golden / SLUG / "crop_resize.npz")
    row, column = int(arrays["row_start"][0]), int(arrays["col_start"][0])
    assert Options().patch_size == (192, 192)
    crop = method().crop
    boxes = [crop.draw((192, 192), generator(seed)) for seed in range(1500)]
    starts = {each.start for box in boxes for each in box}
    assert starts == set(range(10, 70))
    assert {row, column} <= starts
    assert {each.stop - each.start for box in boxes for each in box} == {int(arrays["box"])}
    arrays = np.load(golden / SLUG / "normalise_crop.npz")
    volume = arrays["volume"]
    grid = Grid(volume.shape, None)
    scan = Scan(array=volume[None], spacing=None, affine=None, modality="", grid=grid)
    prepare = GlobalLocalContrast.preparation(Options(fidelity="official"))
    ends = prepare(scan).extras["percentiles"]
    held = Held(torch.from_numpy(volume)[None], tuple(ends[0]))
    small = method("unet-6", fidelity="official", patch_size=(32, 32))
    for place in range(volume.shape[2]):
        slice_ = small.read(held, place)[0, 10:22, 11:21]
        np.testing.assert_allclose(slice_, arrays["normalised"][..., place], rtol=1e-5, atol=1e-6)
        assert small.read(held, place).abs().sum() == pytest.approx(float(slice_.abs().sum()))


@pytest.mark.parametrize("local_loss", ["lr", "ld"])
def test_must_have_8_versions_have_one_geometry(local_loss: str) -> None:
    small = method(local_loss=local_loss)
    volumes = [noisy(seed) for seed in range(3)]
    batch = batch_of(small, 1, volumes)
    whole = torch.cat([each.array[0, 4:36, 4:36].movedim(-1, 0) for each in volumes])
    for slice_ in batch.slices.flatten(0, 2):
        assert (whole == slice_).all((1, 2)).any(), "not a slice as it is"
    versions = small.versions(batch)
    assert versions.shape[1] == 2
    for version in versions.transpose(0, 1).flatten(1, 2).flatten(2):
        for changed, plain in zip(version, batch.slices.flatten(0, 1).flatten(1), strict=True):
            assert torch.corrcoef(torch.stack([changed, plain]))[0, 1] > 0.9999
    assert not torch.allclose(versions[:, 0], versions[:, 1])


@BOTH
@pytest.mark.parametrize("local_loss", ["lr", "ld"])
def test_must_have_9_the_second_stage_leaves_the_encoder(fidelity: str, local_loss: str) -> None:
    """No weight of it moves and none gets a gradient; in official mode its running statistics go on."""
    small = method("unet-6", fidelity=fidelity, local_loss=local_loss)
    batch = batch_of(small, 1, [noisy(seed) for seed in range(3)])
    before = {name: value.clone() for name, value in small.state_dict().items()}
    run_step(small, 1, batch)
    assert all(p.grad is None for p in small.encoder.parameters())
    names = dict(small.encoder.named_parameters())
    still, statistics = [], []
    for name, value in small.encoder.state_dict().items():
        same = torch.equal(before[f"encoder.{name}"], value)
        (still if name in names else statistics).append(same)
    assert all(still)
    assert all(statistics) if fidelity == "clean" else not any(statistics)
    for part in (small.decoder, small.region_projector):
        assert all(p.grad is not None for p in part.parameters())
    assert all(p.grad is None for p in small.projector.parameters())


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A short run on phantoms, their folder with labels, and the cache."""
    root = tmp_path_factory.mktemp("contrast")
    write_patients(root / "scans", patients=8, shape=(40, 40, 16), labelled=True)
    done = pretrain(
        SLUG,
        root / "scans" / "images",
        root / "run",
        cache=root / "cache",
        patch_size=(64, 64),
        steps=4,
        batch_size=2,
        local_batch_size=3,
        **QUIET,
    )
    return done.out, root / "scans", root / "cache"


def test_must_have_10_and_14_three_stages_hand_over(
    pretrained: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """Global, local, fine-tuning: a checkpoint each; the last starts from the encoder and three blocks."""
    run, labelled, cache = pretrained
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(line["phase"] for line in lines)) == ["global", "local"]
    assert (run / "checkpoints" / "last.safetensors").is_file()
    carried, _ = read_weights(run)
    done = finetune(
        "segment",
        labelled,
        tmp_path / "task",
        init=run,
        cache=cache,
        steps=1,
        lr=1e-30,
        weight_decay=0.0,
        batch_size=2,
        **QUIET,
    )
    assert (tmp_path / "task" / "checkpoints" / "last.safetensors").is_file()
    assert done.loaded is not None
    assert done.loaded.missing == ()
    (note,) = (each for each in done.notes if each.startswith("decoder"))
    task = load_task(done.out).task
    own = dict(task.named_parameters())
    taken = {name for name in carried if name in own}
    for name in taken:
        assert torch.equal(carried[name], own[name].detach()), name
    assert {name.split(".")[2] for name in taken if name.startswith("decoder.")} == {"0", "1", "2"}
    fresh = [name for name in own if name.startswith("decoder.") and name not in taken]
    assert {".".join(name.split(".")[:3]) for name in fresh} == {
        "decoder.levels.3", "decoder.levels.4", "decoder.head.0", "decoder.head.1", "decoder.head.2",
    }  # fmt: skip
    whole = len(build_decoder(task.encoder, out_channels=3).state_dict())
    held = sum(name.startswith("decoder.") for name in carried)
    assert f"{held} tensors matched, 0 adapted, {whole - held} missing" in note


def test_must_have_11_lengths_do_not_matter() -> None:
    small = method()
    rows = torch.randn(4, 2, 4, 16)
    loss = small.global_loss(rows)
    for factor in (1e-3, 7.0, 1e4):
        assert torch.allclose(small.global_loss(factor * rows), loss, rtol=1e-4)
    regions = torch.randn(3, 2, 1, 25, 16)
    assert torch.allclose(small.local_loss(9 * regions), small.local_loss(regions), rtol=1e-4)


def test_must_have_12_everything_can_be_chosen() -> None:
    defaults = Options()
    assert (defaults.partitions, defaults.decoder_blocks, defaults.positions) == (4, 3, 13)
    assert (defaults.temperature, defaults.lr, defaults.batch_size) == (0.1, 1e-3, 3)
    assert defaults.steps == 2 * 10_001
    own = method("unet-6", partitions=3, decoder_blocks=4, positions=9, temperature=0.5)
    volumes = [noisy(seed) for seed in range(4)]
    batch = batch_of(own, 0, volumes)
    assert batch.slices.shape == (4, 3, 1, 32, 32)
    assert own.embed(own.recoloured(batch)).shape == (4, 2, 3, 128)
    local = batch_of(own, 1, volumes)
    assert own.decode(local.slices.flatten(0, 1)).shape == (4, 32, 16, 16)
    assert float(own.local_score(local)["place chance"]) == pytest.approx(1 / 9)
    rows = torch.randn(4, 2, 3, 16)
    assert not torch.allclose(own.global_loss(rows), method(partitions=3).global_loss(rows))
    regions = torch.randn(4, 2, 1, 25, 16)
    for other in (method(temperature=0.5), method(positions=9)):
        assert not torch.allclose(own.local_loss(regions), other.local_loss(regions))
    full = GlobalLocalContrast(Options(), build_encoder("unet-6", dims=2))
    first, *_ = [each for each in full.projector if isinstance(each, nn.Linear)]
    assert (first.in_features, first.out_features) == (4608, 1024)
    assert full.region_projector.project.weight.shape == (128, 64, 3, 3)


def test_must_have_13_dice_with_and_without_background(golden: Path) -> None:
    arrays = np.load(golden / SLUG / "dice_loss.npz")
    logits = torch.from_numpy(arrays["logits"]).movedim(-1, 1)
    labels = torch.from_numpy(arrays["onehot"]).argmax(-1)
    for background, name in ((True, "loss_with_background"), (False, "loss_without_background")):
        loss = float(dice_loss(logits, labels, background=background))
        assert loss == pytest.approx(float(arrays[name]), abs=1e-6)


def test_official_changes_are_one_for_a_batch() -> None:
    volumes = [noisy(seed) for seed in range(4)]
    for fidelity, alike in (("clean", False), ("official", True)):
        small = method(fidelity=fidelity, global_loss="gd-minus")
        batch = batch_of(small, 0, volumes)
        assert batch.changes.shape == (4, 2, 4, 2)
        flat = batch._replace(copies=torch.full_like(batch.copies, 0.5))
        means = small.recoloured(flat)[:, 1:].mean((-1, -2, -3))
        assert (means.amax((0, 2)) - means.amin((0, 2)) < 1e-6).all() == alike
        assert means[0, 0, 0] != means[0, 1, 0], "two calls, two changes"
        local = batch_of(small, 1, volumes)
        flat = local._replace(slices=torch.full_like(local.slices, 0.5))
        means = small.versions(flat).mean((-1, -2, -3))
        assert (means.amax((0, 2)) - means.amin((0, 2)) < 1e-6).all() == alike


def test_slices_themselves_are_not_recoloured_nor_clipped() -> None:
    small = method(fidelity="official", global_loss="gd-minus")
    volume = Held(3 * torch.rand(1, 40, 40, 12))
    images = small.recoloured(batch_of(small, 0, [volume]))
    assert images[:, 0].max() > 2
    assert images[:, 1:].max() <= 1.5


@pytest.mark.parametrize(("loss", "views"), [("gd", 2), ("gd-minus", 3)])
def test_batches_of_the_first_stage(loss: str, views: int) -> None:
    """48 rows for G^D, 36 for G^D-: as many as in the published batches."""
    small = method(global_loss=loss)
    (feed,) = small.phases()[0].feeds.values()
    batch = batch_of(small, 0, [noisy(seed) for seed in range(feed.batch_size)])
    images = small.recoloured(batch)
    assert images.shape[:3] == (feed.batch_size, views, 4)
    assert math.prod(images.shape[:3]) == {"gd": 48, "gd-minus": 36}[loss]


@BOTH
@pytest.mark.parametrize("loss", ["gd", "gd-minus"])
@pytest.mark.parametrize("local_loss", ["lr", "ld"])
def test_every_variant_takes_steps(fidelity: str, loss: str, local_loss: str) -> None:
    small = method(fidelity=fidelity, global_loss=loss, local_loss=local_loss)
    volumes = [noisy(seed) for seed in range(2)]
    for stage in (0, 1):
        assert math.isfinite(run_step(small, stage, batch_of(small, stage, volumes)))


@pytest.mark.parametrize("encoder", ["unet", "unet-6", "resnet18"])
def test_other_encoders_and_channels_serve(encoder: str) -> None:
    small = method(encoder, channels=2, patch_size=(64, 64))
    volumes = [Held(torch.rand(2, 40, 40, 9, generator=generator(seed))) for seed in range(2)]
    for stage in (0, 1):
        assert math.isfinite(run_step(small, stage, batch_of(small, stage, volumes)))


def test_score_by_hand() -> None:
    """Two volumes of two partitions: the nearest slice of the other volume is right three times in four."""
    small = method(partitions=2)
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [1.0, 0.2]]).view(2, 1, 2, 2)
    assert nearest_slices(rows).tolist() == [2, 3, 0, 0]
    small.embed = lambda images: rows.repeat(1, 2, 1, 1)
    batch = batch_of(small, 0, [noisy(0), noisy(1)])
    scores = {name: float(value) for name, value in small.score(batch).items()}
    assert scores["partition"] == 0.75
    assert scores["partition chance"] == 0.5
    assert scores["loss chance"] == pytest.approx(4 * math.log(5))  # four rows of another partition
    own = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]], [[0.0, 2.0], [0.1, 0.0]]]])
    assert nearest_slices(own).tolist() == [1, 0]


def test_official_scores_look_for_other_volumes_alone() -> None:
    """Held-out batches hold the same volumes in both draws; one of them is scored."""
    small = method(fidelity="official").eval()
    records = [noisy(seed) for seed in range(3)]
    phase = small.phases()[0]
    batch = held_out_batch(phase, items_of(phase, records), seed=0, number=0)
    seen = []
    embed = small.embed
    small.embed = lambda images: seen.append(images) or embed(images)
    with torch.no_grad():
        small.score(batch)
        small.preview(batch)
    assert [len(images) for images in seen] == [3, 3]
    assert torch.equal(seen[0][:, 0], batch["first"].slices)


def test_local_score_knows_its_chance() -> None:
    small = method()
    scores = small.local_score(batch_of(small, 1, [noisy(seed) for seed in range(3)]))
    assert float(scores["loss chance"].detach()) == pytest.approx(math.log(11))
    assert float(scores["place chance"]) == pytest.approx(1 / 13)


def test_previews_show_both_tasks() -> None:
    small = method().eval()
    volumes = [noisy(seed) for seed in range(3)]
    with torch.no_grad():
        shown = small.preview(batch_of(small, 0, volumes))
        local = small.local_preview(batch_of(small, 1, volumes))
    assert list(shown) == ["slice", "copy", "nearest elsewhere"]
    assert list(local) == ["version 1", "version 2", "like the middle"]
    for each in (*shown.values(), *local.values()):
        assert each.shape[1:] == (1, 32, 32)
        assert each.min() >= 0
        assert each.max() <= 1


@BOTH
def test_pictures_and_flat_volumes_are_refused_before_training(
    tmp_path: Path, fidelity: str
) -> None:
    write_patients(tmp_path / "pictures", patients=3, shape=(40, 40))
    write_patients(tmp_path / "flat", patients=3, shape=(40, 40, 5))
    for folder, fact, remedy, options in [
        ("pictures", "is a picture, not a volume", "Give whole volumes", {}),
        (
            "flat",
            "has 5 slice.s., fewer than the 6 partitions",
            "--partitions 5",
            {"partitions": 6},
        ),
    ]:
        with pytest.raises(DataError, match=fact) as fault:
            pretrain(
                SLUG, tmp_path / folder, tmp_path / "run" / folder, cache=tmp_path / "cache",
                patch_size=(64, 64), fidelity=fidelity, **options, **QUIET,
            )  # fmt: skip
        assert remedy in fault.value.remedy
        assert not (tmp_path / "run" / folder / "encoder.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "fact", "remedy"),
    [
        ({"partitions": 1}, "--partitions is 1", "at least 2"),
        ({"positions": 14}, "--positions is 14", "2 to 13"),
        ({"decoder_blocks": 9}, "9 blocks", "--decoder-blocks 1 to 3"),
        ({"encoder": "unet-6", "patch_size": (32, 16)}, "feature map of 8 x 4", "--patch-size 32 32"),
        ({"encoder": "unet", "patch_size": (33, 32)}, "multiples of 8", "--patch-size 32 32"),
        ({"fidelity": "official", "batch_size": 1}, "--batch-size is 1", "--batch-size 2"),
        ({"global_loss": "gr"}, "not one of gd, gd-minus", ""),
        ({"crop": 1.5}, "--crop is 1.5", "0 to 1"),
    ],
)  # fmt: skip
def test_wrong_options_are_named(options: dict[str, Any], fact: str, remedy: str) -> None:
    with pytest.raises(OptionError, match=fact) as fault:
        method(**options)
    assert remedy in fault.value.remedy


def test_preparations_of_other_options_have_other_names() -> None:
    names = {
        repr(GlobalLocalContrast.preparation(Options(fidelity=fidelity, partitions=partitions)))
        for fidelity in ("clean", "official")
        for partitions in (4, 5)
    }
    assert len(names) == 4
    assert isinstance(GlobalLocalContrast.preparation(Options()), WholeVolumes)


def learn(scans: Path, root: Path) -> Path:
    """Pretrain the published network for 100 steps a stage on slices of 32 x 48 voxels."""
    own = Options(patch_size=(32, 48), steps=200)
    return pretrain(
        SLUG, scans, root / "run", options=own, cache=root / "cache", held_out_batches=0, **QUIET
    ).out


def scored(scans: Path, root: Path, run: Path | None) -> dict[str, float]:
    """Score a run, or fresh weights, on the subjects that it held out."""
    own = Options(patch_size=(32, 48))
    store = open_store(GlobalLocalContrast, own, root / "cache")
    rule = GlobalLocalContrast.intensity(own)
    records = store.prepare(index_scans(scans).sources, rule=rule).records
    small = build_method(GlobalLocalContrast, own, dims=2, channels=1)
    if run is not None:
        kept = load_file(run / "checkpoints" / "last.safetensors")
        mine = {name: value for name, value in kept.items() if name.startswith("method.")}
        small.load_state_dict({name.removeprefix("method."): mine[name] for name in mine})
    small.eval()
    _, held_out = split_records(records, own.seed)
    figures: dict[str, float] = {}
    with torch.no_grad():
        for phase in small.phases():
            items = items_of(phase, held_out)
            for number in range(4):
                batch = held_out_batch(phase, items, seed=0, number=number)
                for name, value in (phase.score or small.score)(batch).items():
                    key = f"{phase.name} {name}"
                    figures[key] = figures.get(key, 0.0) + float(value) / 4
    return figures


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_on_real_scans(
    shared_data: Path, tmp_path: Path, proof: Callable[..., None]
) -> None:
    """On held-out hippocampus MRI, slices find their partition in other subjects, and places find each other.

    Fresh weights are at chance in both; the loss of the second stage is compared with that of knowing nothing, as fresh
    weights already find every place of a copy that has the same geometry.
    """
    scans = hippocampi(shared_data, tmp_path / "scans")
    fresh = scored(scans, tmp_path, None)
    figures = scored(scans, tmp_path, learn(scans, tmp_path))
    proof(
        SLUG,
        data="hippocampus-mri",
        partition=figures["global partition"],
        partition_fresh=fresh["global partition"],
        partition_chance=figures["global partition chance"],
        local_loss=figures["local loss"],
        local_loss_fresh=fresh["local loss"],
        local_loss_chance=figures["local loss chance"],
    )
    assert fresh["global partition"] < 0.5
    assert figures["global partition"] > 0.85
    assert figures["local loss"] < 0.1 * figures["local loss chance"] < 0.2 * fresh["local loss"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_without_the_order_of_slices_the_bar_is_missed(
    shared_data: Path, tmp_path: Path, proof: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slices from anywhere instead of one from each partition, and places paired at random.

    Slices that look alike still lie alike, so partitions are found far above chance, but below what their order teaches.
    """
    scans = hippocampi(shared_data, tmp_path / "scans")
    embed_regions = GlobalLocalContrast.embed_regions

    def anywhere(self: GlobalLocalContrast, record: Record, rng: torch.Generator) -> Tensor:
        order = torch.randperm(record.space[2], generator=rng)[: self.options.partitions]
        return torch.stack([self.read(record, place) for place in order.tolist()])

    def mixed(self: GlobalLocalContrast, versions: Tensor) -> Tensor:
        first, second = embed_regions(self, versions).unbind(1)
        return torch.stack([first, second[:, :, torch.randperm(25)]], 1)

    with monkeypatch.context() as patch:
        patch.setattr(GlobalLocalContrast, "partition_slices", anywhere)
        patch.setattr(GlobalLocalContrast, "embed_regions", mixed)
        run = learn(scans, tmp_path)
    figures = scored(scans, tmp_path, run)
    proof(
        SLUG,
        data="hippocampus-mri",
        partition_broken=figures["global partition"],
        local_loss_broken=figures["local loss"],
    )
    assert figures["global partition"] < 0.8
    assert figures["local loss"] > 0.1 * figures["local loss chance"]
