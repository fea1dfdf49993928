"""Every must-have of supervoxel inpainting, its guard against leaking masks, and that holes are filled on held-out brains."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, zoom

from unlabeled.data.entry import write_entry
from unlabeled.data.index import index_scans
from unlabeled.data.intensity import IntensityRule
from unlabeled.data.preparation import Recipe, prepare_scan
from unlabeled.data.scan import Grid, Scan, ScanFile, Source
from unlabeled.data.store import Record
from unlabeled.demo.phantoms import write_manifest
from unlabeled.errors import DataError, OptionError, ScanError
from unlabeled.losses.segmentation import overlap_loss
from unlabeled.methods.supervoxel_inpainting import (
    Hole,
    Options,
    Sample,
    SupervoxelInpainting,
    regions_of,
)
from unlabeled.nn.encoders import build_encoder
from unlabeled.nn.weights import read_weights
from unlabeled.rng import generator
from unlabeled.training.loader import items_of
from unlabeled.training.pretrain import open_store, pretrain
from unlabeled.transfer.finetune import finetune
from unlabeled.transfer.saved import load_task
from unlabeled.transforms.supervoxel_maps import SUPERVOXELS, column_grid

SLUG = "supervoxel-inpainting"
QUIET = {"accelerator": "cpu", "quiet": True, "log_every": 1}
BOTH = pytest.mark.parametrize("fidelity", ["clean", "official"])
MODES = ("roi-supervoxel", "noroi-supervoxel", "roi-grid", "noroi-grid")
SMALL = {"patch_size": (24, 24, 16), "segments": 24, "cell": (6, 12), "encoder": "resenc-tiny"}


class Stored:
    """An array in memory that reads like one of the store."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array[None]

    def whole(self) -> np.ndarray:
        return self.array

    def read(self, start, size) -> np.ndarray:
        cut = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        return self.array[(slice(None), *cut)]


@dataclass
class Held:
    """A record in memory: an image in [0, 1], its supervoxels, a mask."""

    image: torch.Tensor
    labels: np.ndarray
    segmented: np.ndarray | None = None
    split: str | None = "train"

    @property
    def source(self) -> SimpleNamespace:
        return SimpleNamespace(name="case.nii.gz", split=self.split)

    @property
    def space(self) -> tuple[int, ...]:
        return tuple(self.image.shape[1:])

    @property
    def extras(self) -> dict[str, Stored]:
        return {SUPERVOXELS: Stored(self.labels)}

    @property
    def mask(self) -> Stored | None:
        return None if self.segmented is None else Stored(self.segmented)

    def patch(self, start, size) -> torch.Tensor:
        cut = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        return self.image[(slice(None), *cut)].clone()

    def mask_patch(self, start, size) -> torch.Tensor:
        return torch.from_numpy(self.mask.read(start, size)[0].astype(np.int64))


def method(channels: int = 1, **options) -> SupervoxelInpainting:
    own = Options(**options)
    return SupervoxelInpainting(own, build_encoder(own.encoder, dims=3, in_channels=channels))


@pytest.fixture(scope="module")
def published(golden: Path) -> Held:
    """The phantom of the golden arrays; of its second channel one slice is known, so the others are 0."""
    given = np.load(golden / SLUG / "roi_supervoxel.npz")
    second = np.zeros_like(given["flair"])
    second[..., 16] = np.load(golden / SLUG / "roi_supervoxel_outputs.npz")["t1ce_center_slice"]
    image = torch.from_numpy(np.stack([given["flair"], second]))
    return Held(image, given["labels"], given["seg"])


def blocks(space=(24, 24, 16), edges=(8, 8, 8), channels=1, **more) -> Held:
    """A scan whose supervoxels are blocks, numbered from 1; every voxel is brighter than 0."""
    at = np.meshgrid(*[np.arange(n) // e for n, e in zip(space, edges, strict=True)], indexing="ij")
    across = [-(-n // e) for n, e in zip(space, edges, strict=True)]
    labels = (np.ravel_multi_index(tuple(at), across) + 1).astype(np.int32)
    image = 0.1 + 0.9 * torch.rand(channels, *space, generator=generator(0))
    return Held(image, labels, **more)


@BOTH
def test_must_have_1_and_3_holes_are_supervoxels_cut_to_the_mask(published, golden, fidelity):
    """Eight pairs, in the order of their numbers, equal to the published ones bit for bit."""
    given = np.load(golden / SLUG / "roi_supervoxel.npz")
    want = np.load(golden / SLUG / "roi_supervoxel_outputs.npz")
    made = method(2, mode="roi-supervoxel", fidelity=fidelity)
    holes = made.holes([published])
    labels = [hole.regions[0].label for hole in holes]
    assert labels == given["region_label"].tolist() == [174, 175, 177, 187, 188, 209, 215, 216]
    for place, hole in enumerate(holes):
        sample = made.views(hole, generator(place))
        erased = (given["labels"] == labels[place]) & (given["seg"] == 1)
        assert np.array_equal(sample.hole[0].numpy(), erased)
        assert erased.sum() == given["region_voxels"][place]
        assert torch.equal(sample.intact, published.image)
        assert torch.equal(sample.masked, torch.where(sample.hole, 0.0, published.image))
        assert np.array_equal(sample.masked[0, ..., 16], want["masked_flair_slices"][place])
        assert np.array_equal(sample.masked[1, ..., 16], want["masked_t1ce_slices"][place])
        assert sample.masked[0].double().sum().item() == pytest.approx(
            want["masked_flair_sum"][place], rel=1e-3
        )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("least", [511, 512])
def test_must_have_2_regions_must_exceed_the_smallest_size(mode, least):
    """Blocks and columns of exactly 512 voxels."""
    scan = blocks(segmented=np.ones((24, 24, 16), np.uint8))
    if "grid" in mode:
        scan = blocks((24, 24, 8), segmented=np.ones((24, 24, 8), np.uint8))
    own = Options(mode=mode, smallest_region=least, cell=(8, 8))
    assert bool(regions_of(scan, own)) == (least == 511)


def test_must_have_2_published_sizes_and_their_proportion_in_other_patches():
    assert Options().least == Options(mode="roi-supervoxel").least == 1500
    assert Options(mode="roi-grid").least == Options(mode="noroi-grid").least == 400
    assert Options(patch_size=(80, 216, 32)).least == 750
    assert Options(segments=800).least == 750
    assert Options(mode="roi-grid", patch_size=(80, 216, 32), segments=800).least == 200


@pytest.mark.parametrize("mode", MODES)
def test_must_have_4_channels_share_the_hole_and_the_target_is_intact(mode):
    scan = blocks(channels=2, segmented=np.ones((24, 24, 16), np.uint8))
    made = method(2, mode=mode, **SMALL)
    for place, item in enumerate(made.holes([scan])):
        masked, intact, hole = made.views(item, generator(place))
        assert torch.equal(intact, scan.image)
        assert hole.shape == (1, 24, 24, 16)
        assert 0 < hole.sum() < hole.numel() / 2
        for channel in (0, 1):
            assert torch.equal(masked[channel] == 0, hole[0])


def test_must_have_5_without_mask_the_published_candidates_in_the_middle(published, golden):
    want = np.load(golden / SLUG / "noroi_supervoxel.npz")
    found = regions_of(published, Options())
    large = want["candidate_voxels"] > 1500
    assert [region.label for region in found] == want["candidate_labels"][large].tolist()
    holes = method(2).holes([published])
    assert len(holes) == want["n_yielded"] == 7
    assert all(hole.regions == tuple(found) for hole in holes)


def test_must_have_5_at_most_ten_columns_all_of_the_middle():
    scan = blocks((160, 216, 4), (40, 36, 4))
    for seed in range(8):
        own = Options(mode="noroi-grid", seed=seed, smallest_region=1)
        found = regions_of(scan, own)
        for region in found:
            (top, bottom), (left, right), depth = region.box
            assert top < 100 and bottom > 60 and left < 130 and right > 90  # noqa: PT018
            assert depth == (0, 4)
        assert len(method(mode="noroi-grid", seed=seed, smallest_region=1).holes([scan])) == min(
            10, len(found)
        )
    made = method(mode="noroi-grid", smallest_region=1, cell=(4, 4))
    assert len(made.holes([scan])) == 10


def test_must_have_6_columns_are_the_published_grid(golden):
    given = np.load(golden / SLUG / "grid_labels.npz")
    for side, flat in zip(given["grid_size"], given["labels_2d"], strict=True):
        columns = column_grid((160, 216, 5), int(side))
        assert (columns == flat[..., None]).all()


def test_must_have_6_edges_are_drawn_from_20_to_44():
    seen = set()
    for seed in range(300):
        own = Options(mode="noroi-grid", seed=seed, smallest_region=1)
        boxes = [region.box for region in regions_of(blocks((160, 216, 1), (40, 36, 1)), own)]
        seen |= {b - a for (a, b), _, _ in boxes if b < 160}
    assert seen == set(range(20, 45))


def test_must_have_7_the_whole_volume_spans_0_to_1_before_cropping(golden, tmp_path):
    given = np.load(golden / SLUG / "normalize_crop.npz")
    axes = np.meshgrid(*map(np.arange, (240, 240, 155)), indexing="ij", sparse=True)
    slopes = given["formula_coefficients"]
    volume = sum(s * axis for s, axis in zip(slopes, axes, strict=True)).astype(np.float32)
    record = keep(tmp_path, volume[None])
    whole = record.patch((0, 0, 0), (240, 240, 155))[0]
    assert (whole.min(), whole.max()) == (0, 1)
    cropped = whole[40:200, 12:228, ::4][..., :32]
    assert cropped.shape == tuple(given["shape_out"])
    got = cropped[tuple(given["corner_index"].T)].numpy()
    np.testing.assert_allclose(got, given["corner_values"], rtol=0, atol=1e-5)


def test_ct_keeps_its_window():
    """The rule of a scan's own range holds for units that mean nothing."""
    rule = SupervoxelInpainting.intensity(Options())
    assert rule == IntensityRule(kind="range")
    assert rule.ct == (-1000.0, 1000.0)


def keep(folder: Path, array: np.ndarray) -> Record:
    """Store one scan as it stands, and open it under the method's rule."""
    scan = Scan(
        array=array, spacing=(1.0,) * 3, affine=np.eye(4), modality="MR",
        grid=Grid(array.shape[1:], np.eye(4)),
    )  # fmt: skip
    about, arrays = prepare_scan(scan, None, Recipe())
    (folder / "ab").mkdir()
    write_entry(folder / "ab" / "abc", about, arrays)
    source = Source(name="x.nii.gz", channels=(ScanFile((Path("x"),), "nifti"),), subject="x")
    return Record("abc", source, SupervoxelInpainting.intensity(Options()), str(folder))


def test_must_have_8_the_loss_is_the_plain_mean():
    made = method(2, **SMALL).eval()
    intact = torch.rand(3, 2, 24, 24, 16, generator=generator(1))
    hole = torch.zeros(3, 1, 24, 24, 16, dtype=torch.bool)
    hole[:, :, 4:9, 4:9, 4:9] = True
    batch = Sample(intact.masked_fill(hole, 0), intact, hole)
    (update,) = made.step(batch)
    with torch.no_grad():
        by_hand = (made.restore(batch.masked) - intact).square().sum() / intact.numel()
    assert update.loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert made.restore(batch.masked).min() < 0  # nothing bounds the output


def test_must_have_9_dice_loss_of_the_published_segmentation(golden):
    given = np.load(golden / SLUG / "dice.npz")
    likely, truth = (torch.from_numpy(given[name]) for name in ("y_pred", "y_true"))
    loss = overlap_loss(likely, truth).item()
    assert loss == pytest.approx(float(given["dice_loss"]), abs=1e-6)
    assert loss == pytest.approx(0.371429, abs=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_must_have_10_region_1_is_a_normal_hole_unless_official(mode):
    scan = blocks(segmented=np.ones((24, 24, 16), np.uint8))
    clean, official = (method(mode=mode, fidelity=f, **SMALL) for f in ("clean", "official"))
    (first,) = [
        region
        for region in regions_of(scan, replace(clean.options, mode=f"roi-{clean.options.shape}"))
        if region.label == 1
    ]
    sample = clean.views(Hole(scan, (first,)), generator(0))
    assert 0 < sample.hole.sum() < sample.hole.numel() / 2
    assert torch.equal(sample.masked == 0, sample.hole)
    assert (official.views(Hole(scan, (first,)), generator(0)).masked == 0).all()


def test_must_have_12_a_volume_without_a_region_gives_no_pair():
    """Regions of one scan are all too small; a scan gives as many samples as it has regions."""
    mask = np.zeros((24, 24, 16), np.uint8)
    mask[:8, :8] = 1
    few = blocks(segmented=mask)
    many = blocks(segmented=np.ones((24, 24, 16), np.uint8))
    none = blocks(edges=(2, 2, 2), segmented=mask)
    made = method(mode="roi-supervoxel", **{**SMALL, "patch_size": (24, 24, 16)})
    (phase,) = made.phases()
    assert [len(items_of(phase, [scan])["scans"]) for scan in (few, many, none)] == [2, 18, 0]
    assert len(items_of(phase, [few, none, many])["scans"]) == 20
    with pytest.raises(ScanError, match="has no supervoxel region of more than") as fault:
        SupervoxelInpainting.require(none, made.options)
    assert "--smallest-region" in fault.value.remedy


@pytest.mark.parametrize("mode", ["roi-supervoxel", "roi-grid"])
def test_must_have_13_a_missing_mask_names_the_modes_without(mode):
    with pytest.raises(ScanError, match="has no mask") as fault:
        SupervoxelInpainting.require(blocks(), Options(mode=mode, **SMALL))
    assert f"--mode noroi-{mode.partition('-')[2]}" in fault.value.remedy
    free = Options(mode=mode.replace("roi", "noroi"), **SMALL)
    SupervoxelInpainting.require(blocks(), free)


@pytest.mark.parametrize(("split", "fact"), [("test", "set aside for testing"), (None, "not said")])
def test_masks_of_scans_that_may_be_tested_on_are_refused(split, fact):
    scan = blocks(segmented=np.ones((24, 24, 16), np.uint8), split=split)
    with pytest.raises(ScanError, match=fact):
        SupervoxelInpainting.require(scan, Options(mode="roi-supervoxel", **SMALL))
    SupervoxelInpainting.require(scan, Options(**SMALL))  # sees no mask
    for seen in ("train", "val"):
        SupervoxelInpainting.require(
            replace(scan, split=seen), Options(mode="roi-supervoxel", **SMALL)
        )


def test_without_masks_the_mask_changes_nothing():
    plain, masked = blocks(), blocks(segmented=np.ones((24, 24, 16), np.uint8))
    for mode in ("noroi-supervoxel", "noroi-grid"):
        made = method(mode=mode, **SMALL)
        first, second = (
            made.views(made.holes([scan])[0], generator(3)) for scan in (plain, masked)
        )
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_patches_smaller_than_the_scan_hold_the_whole_region():
    scan = blocks((48, 40, 32), segmented=np.ones((48, 40, 32), np.uint8))
    made = method(mode="roi-supervoxel", smallest_region=100, **SMALL)
    items = made.holes([scan])
    assert len(items) == 6 * 5 * 4
    starts = set()
    for place, item in enumerate(items):
        sample = made.views(item, generator(place))
        assert sample.hole.sum() == 512
        starts.add(tuple(sample.hole.nonzero()[0].tolist()))
    assert len(starts) > 20


@pytest.fixture(scope="module")
def brains(tmp_path_factory) -> Path:
    """Six small brains with two channels and lesions, and one without anything; give the manifest."""
    return write_brains(tmp_path_factory.mktemp("brains"), 6, (24, 24, 16), blank=True)


def test_must_have_14_supervoxels_are_cached_under_their_settings(brains, tmp_path):
    sources = index_scans(brains).sources

    def fresh(**changes) -> int:
        own = Options(**{**SMALL, **changes})
        store = open_store(SupervoxelInpainting, own, tmp_path)
        return store.prepare(sources, rule=SupervoxelInpainting.intensity(own)).fresh

    assert fresh() == 7
    assert fresh() == fresh(mode="roi-supervoxel", batch_size=1) == 0
    for changes in ({"segments": 30}, {"compactness": 0.2}, {"slic_channel": 1}):
        assert fresh(**changes) == 7


def test_a_channel_that_is_not_there_is_named(brains, tmp_path):
    own = Options(slic_channel=2, **SMALL)
    store = open_store(SupervoxelInpainting, own, tmp_path)
    prepared = store.prepare(index_scans(brains).sources, rule=SupervoxelInpainting.intensity(own))
    assert not prepared.records
    assert "has 2 channels" in prepared.quarantine[0].reason
    assert "--slic-channel 0 to 1" in prepared.quarantine[0].remedy


def test_must_have_11_and_12_transfer_keeps_all_but_the_last_convolution(brains, tmp_path):
    """Guided by lesions: the empty brain is left out and named, the tested one as well; then the whole U-Net goes on."""
    own = {**SMALL, "encoder": "unet-shallow", "segments": 40, "smallest_region": 20}
    done = pretrain(
        SLUG, brains, tmp_path / "run", mode="roi-supervoxel", steps=2, batch_size=2,
        cache=tmp_path / "cache", **own, **QUIET,
    )  # fmt: skip
    left_out = (tmp_path / "run" / "quarantine.csv").read_text()
    assert done.quarantined == 2
    assert "no supervoxel region" in left_out
    assert "set aside for testing" in left_out
    carried, _ = read_weights(tmp_path / "run")
    task = finetune(
        "segment", brains, tmp_path / "task", init=tmp_path / "run", cache=tmp_path / "cache",
        steps=1, epochs=1, lr=1e-30, weight_decay=0.0, batch_size=2, **QUIET,
    )  # fmt: skip
    learnt = dict(load_task(task.out).task.named_parameters())
    fresh = {name for name in learnt if name not in carried or "head" in name}
    assert fresh == {"decoder.head.weight", "decoder.head.bias"}
    assert all(torch.equal(carried[name], learnt[name]) for name in learnt if name not in fresh)
    head = learnt["decoder.head.weight"]
    assert head.shape[1:] == (
        16,
        1,
        1,
        1,
    )  # one row for each class of the softmax: background is one


def test_a_folder_without_masks_is_refused_with_what_to_type(brains, tmp_path):
    scans = brains.parent / "flair"
    with pytest.raises(DataError, match="has no mask") as fault:
        pretrain(
            SLUG, scans, tmp_path / "run", mode="roi-supervoxel", cache=tmp_path, **SMALL, **QUIET
        )
    assert "--mode noroi-supervoxel" in fault.value.remedy


def test_a_cell_that_falls_is_refused():
    with pytest.raises(OptionError, match="--cell 44 20 falls"):
        Options(cell=(44, 20))


def test_scores_by_hand():
    made = method(**SMALL).eval()
    intact = torch.full((1, 1, 24, 24, 16), 0.5)
    intact[..., :4, :4, :4] = 0.9
    hole = torch.zeros_like(intact, dtype=torch.bool)
    hole[..., :4, :4, :4] = True
    with torch.no_grad():
        scores = made.score(Sample(intact.masked_fill(hole, 0), intact, hole))
    assert scores["hole_zero"].item() == pytest.approx(0.81)
    assert scores["hole_mean"].item() == pytest.approx(0.16, rel=1e-4)
    assert scores["identity"].item() == pytest.approx(0.81 * 64 / intact.numel(), rel=1e-4)


def test_previews_show_the_slice_with_most_of_the_hole():
    made = method(**SMALL).eval()
    intact = torch.rand(2, 1, 24, 24, 16, generator=generator(0))
    hole = torch.zeros(2, 1, 24, 24, 16, dtype=torch.bool)
    hole[0, ..., 2:4, 2:4, 3] = hole[1, ..., 2:9, 2:9, 12] = hole[1, ..., 2, 2, 3] = True
    with torch.no_grad():
        shown = made.preview(Sample(intact.masked_fill(hole, 0), intact, hole))
    assert list(shown) == ["blanked", "restored", "intact"]
    assert all(image.shape == (2, 1, 24, 24, 1) for image in shown.values())
    assert torch.equal(shown["intact"][1, ..., 0], intact[1, ..., 12])
    assert torch.equal(shown["blanked"][0, ..., 0] == 0, hole[0, ..., 3])


def brain(seed: int, space: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A smooth brain with two dark ventricles and a bright textured lesion: both channels, and the lesion."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in space], indexing="ij")

    def ball(centre, radii) -> np.ndarray:
        far = [((x - c) / r) ** 2 for x, c, r in zip(axes, centre, radii, strict=True)]
        return sum(far) < 1

    inside = ball((0, 0, 0), (0.85, 0.9, 1.3))
    tissue = 0.55 + 0.4 * gaussian_filter(rng.normal(size=space), 4) * np.sqrt(4.0**3)
    for side in (-1, 1):
        tissue[ball((0.18 * side, rng.normal(0, 0.03), 0), (0.12, 0.35, 0.7))] = 0.15
    angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 0.55)
    lesion = ball(
        (far * np.cos(angle), far * np.sin(angle), rng.uniform(-0.2, 0.2)), (0.3, 0.3, 0.6)
    )
    lesion &= inside
    texture = 0.08 * zoom(rng.normal(size=[n // 2 for n in space]), 2, order=1)
    flair, other = tissue.clip(0.1, 0.8), 0.9 - 0.6 * tissue.clip(0.1, 0.8)
    flair[lesion] = 0.95 + texture[lesion]
    other[lesion] = 0.7 + texture[lesion]
    noise = rng.normal(0, 0.01, (2, *space))
    return np.where(inside, flair + noise[0], 0), np.where(inside, other + noise[1], 0), lesion


def write_brains(folder: Path, count: int, space: tuple[int, ...], *, blank: bool = False) -> Path:
    """Write brains with a lesion mask; the last is for testing, the fourth part before it for validation; give the manifest."""
    rows = []
    for name in ("flair", "t1", "lesion"):
        (folder / name).mkdir(parents=True)
    for number in range(count + blank):
        images = brain(number, space)
        parts = dict(zip(("flair", "t1", "lesion"), images, strict=True))
        if number == count:
            parts = {name: np.zeros(space) for name in parts} | {
                "t1": images[1],
                "flair": images[0],
            }
        for name, array in parts.items():
            stored = (array * (1 if name == "lesion" else 1000)).clip(0).astype(np.int16)
            image = nibabel.Nifti1Image(stored, np.diag([1.0, 1.0, 2.0, 1.0]))
            nibabel.save(image, folder / name / f"{number:03d}.nii.gz")
        part = "test" if number == count - 1 else "val" if number >= count * 3 // 4 else "train"
        rows.append(
            {
                "image": f"flair/{number:03d}.nii.gz;t1/{number:03d}.nii.gz",
                "mask": f"lesion/{number:03d}.nii.gz",
                "subject": f"{number:03d}",
                "split": "train" if number == count else part,
            }
        )
    return write_manifest(folder / "scans.csv", rows)


def scored(run: Path) -> dict[str, float]:
    """Read the last score on held-out subjects from a run's log."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    found: dict[str, float] = [line["held_out"] for line in lines if "held_out" in line][-1]
    return found


def learn(scans: Path, root: Path, **options) -> dict[str, float]:
    """Pretrain the published network and give its held-out scores."""
    own = {"lr": 2e-3, "batch_size": 4, "held_out_batches": 4, "score_every": 40, **options}
    done = pretrain(SLUG, scans, root / "run", cache=root / "cache", **{**QUIET, **own})
    return scored(done.out)


PHANTOMS = {
    "mode": "roi-supervoxel",
    "patch_size": (40, 40, 16),
    "segments": 60,
    "smallest_region": 80,
    "steps": 120,
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_on_phantoms(tmp_path, proof: Callable[..., None]):
    """Held-out lesions are filled far better than with zeros, or with the mean of the brain around."""
    scans = write_brains(tmp_path / "brains", 40, (40, 40, 16))
    scores = learn(scans, tmp_path, **PHANTOMS)
    figures = ("mse_hole", "hole_zero", "hole_mean", "mse", "identity")
    proof(SLUG, data="phantom brains", **{name: scores[name] for name in figures})
    assert scores["mse_hole"] < 0.2 * scores["hole_zero"]
    assert scores["mse_hole"] < 0.5 * scores["hole_mean"]
    assert scores["mse"] < 0.5 * scores["identity"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_fails_without_holes_to_learn_from(
    tmp_path, proof: Callable[..., None], monkeypatch
):
    """Nothing is blanked in training: copying wins, and held-out holes stay as they were."""
    views = SupervoxelInpainting.views

    def whole(self, item, rng):
        sample = views(self, item, rng)
        return sample._replace(masked=sample.intact) if self.training else sample

    scans = write_brains(tmp_path / "brains", 40, (40, 40, 16))
    with monkeypatch.context() as patch:
        patch.setattr(SupervoxelInpainting, "views", whole)
        scores = learn(scans, tmp_path, **PHANTOMS)
    proof(SLUG, data="phantom brains", mse_hole_nothing_blanked=scores["mse_hole"])
    assert scores["mse_hole"] > 0.5 * scores["hole_mean"]


def write_tumours(folder: Path, real: Path) -> Path:
    """List three brains with a tumour, two to learn from, at 3 mm; the region of interest is the brain."""
    folder.mkdir()
    rows = []
    for number, part in ((5, "train"), (6, "train"), (3, "val")):
        name = f"brats13_pat{number:04d}"
        files = {
            kind: nibabel.load(real / f"{name}_{kind}.nii.gz")
            for kind in ("flair", "t1c", "brainmask")
        }
        inside = np.asarray(files["brainmask"].dataobj) > 0
        for kind in ("flair", "t1c"):
            array = np.asarray(files[kind].dataobj)
            low = int(array[inside].min()) - 1  # outside is stored as the brain's mean
            image = nibabel.Nifti1Image(np.where(inside, array, low), files[kind].affine)
            nibabel.save(image, folder / f"{name}_{kind}.nii.gz")
        rows.append(
            {
                "image": f"{name}_flair.nii.gz;{name}_t1c.nii.gz",
                "mask": str(real / f"{name}_brainmask.nii.gz"),
                "subject": name,
                "split": part,
            }
        )
    return write_manifest(folder / "scans.csv", rows)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_on_real_brains(shared_data, tmp_path, proof: Callable[..., None]):
    """Two brains are too few for 80 steps: holes of a third are no longer dark, but the mean would fill them better.

    The figures are kept as they are; what the method can learn is shown on phantoms.
    """
    scans = write_tumours(tmp_path / "brains", (shared_data / "brain-tumour-mri").resolve())
    scores = learn(
        scans, tmp_path, mode="roi-supervoxel", patch_size=(32, 32, 24), segments=60,
        spacing=(3.0, 3.0, 3.0), steps=80,
    )  # fmt: skip
    figures = ("mse_hole", "hole_zero", "hole_mean", "mse", "identity")
    proof(SLUG, data="brain-tumour-mri", **{name: scores[name] for name in figures})
    assert scores["mse_hole"] < 0.8 * scores["hole_zero"]
