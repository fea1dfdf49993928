"""Every must-have of the superpixel episodes, and that few-shot segmentation of real organs profits from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from unlabeled.data.index import index_scans
from unlabeled.data.store import Record
from unlabeled.demo.phantoms import write_manifest, write_patients
from unlabeled.errors import DataError, OptionError, ScanError
from unlabeled.methods.superpixel_fewshot import Episode, Options, SuperpixelFewShot
from unlabeled.nn.encoders import build_encoder
from unlabeled.nn.schedules import BySteps
from unlabeled.rng import generator
from unlabeled.training.pretrain import open_store, pretrain
from unlabeled.transfer.finetune import finetune
from unlabeled.transforms.superpixel_maps import COUNTS, REGIONS

SMALL = {
    "encoder": "resenc-tiny",
    "patch_size": (64, 64),
    "min_size": 60,
    "smallest_region": 30,
    "width": 16,
    "stride": 4,
}
STILL = {"rotation": 0, "shear": 0, "shift": 0, "zoom": (1, 1), "elastic": 0, "gamma": (1, 1)}
BOTH = pytest.mark.parametrize("fidelity", ["clean", "official"])


def method(**options) -> SuperpixelFewShot:
    own = Options(**{**SMALL, **options})
    return SuperpixelFewShot(own, build_encoder(own.encoder, dims=2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Phantom volumes with labels, and pictures without."""
    root = tmp_path_factory.mktemp("superpixels")
    write_patients(root / "volumes", patients=2, shape=(72, 66, 5), labelled=True)
    write_patients(root / "pictures", patients=2, shape=(72, 66))
    return root


@pytest.fixture
def prepared(folder):
    """Records of the phantoms, prepared under some options."""

    def make(kind: str = "pictures", **options) -> tuple[Record, ...]:
        own = Options(**{**SMALL, **options})
        sources = index_scans(folder / kind, labelled=kind == "volumes").sources
        store = open_store(SuperpixelFewShot, own, folder / "cache")
        return store.prepare(sources, rule=SuperpixelFewShot.intensity(own)).records

    return make


def episodes(small: SuperpixelFewShot, records, count: int, place: str = "") -> list[Episode]:
    items = small.slices(records)
    return [small.views(items[n % len(items)], generator(n, place)) for n in range(count)]


@BOTH
@pytest.mark.parametrize("kind", ["pictures", "volumes"])
def test_support_and_query_show_one_superpixel_of_one_slice_by_draws_of_their_own(
    prepared, kind, fidelity
):
    small = method(fidelity=fidelity)
    for episode in episodes(small, prepared(kind, fidelity=fidelity), 6):
        assert episode.support.shape == episode.query.shape == (1, 64, 64)
        assert not torch.equal(episode.support, episode.query)
        assert not torch.equal(episode.support_region, episode.query_region)
        sizes = [float(each.sum()) for each in (episode.support_region, episode.query_region)]
        assert 0.4 < sizes[0] / sizes[1] < 2.5  # two zooms of 0.9 to 1.2, and what the borders take


def test_image_and_region_share_the_geometric_draw(prepared):
    """An image that shows the superpixels themselves stays true to them inside of every region."""
    small = method(gamma=(1, 1))
    item = small.slices(prepared())[0]
    regions = item.labels(REGIONS, (4, 1), (64, 64))
    image = regions.float()[None]
    for seed in range(5):
        warped, carried = small._view(image, regions, generator(seed))
        sure = (carried > 0) & ((warped[0] - warped[0].round()).abs() < 1e-3)
        assert sure.float().mean() > 0.15
        assert (warped[0][sure].round() == carried[sure]).float().mean() > 0.97


@BOTH
def test_regions_lie_within_the_body_and_no_empty_one_reaches_the_loss(prepared, fidelity):
    small = method(fidelity=fidelity)
    records = prepared(fidelity=fidelity)
    least = 30 if fidelity == "clean" else 1
    for record in records:
        regions = record.extras[REGIONS].whole()[0]
        image = record.patch((0, 0), record.space)[0].numpy()
        assert image[regions > 0].mean() > 3 * image[regions == 0].mean()
        assert np.bincount(regions[regions > 0]).max() > 100
        if fidelity == "clean":
            assert np.bincount(regions[regions > 0])[1:].min() >= 30
    for episode in episodes(small, records, 12):
        assert episode.support_region.sum() >= least
        assert episode.query_region.sum() >= least


def test_regions_are_zero_and_one_and_the_background_is_the_rest(prepared):
    small = method()
    for episode in episodes(small, prepared(), 3):
        for region in (episode.support_region, episode.query_region):
            assert region.shape == (64, 64)
            assert set(region.unique().tolist()) == {0.0, 1.0}
    seen = []
    pool = pytest.MonkeyPatch()
    from unlabeled.nn import prototypes

    inner = prototypes.pool_prototypes
    pool.setattr(
        prototypes, "pool_prototypes", lambda f, m, *a, **k: seen.append(m) or inner(f, m, *a, **k)
    )
    try:
        batch = torch.utils.data.default_collate(episodes(small, prepared(), 2))
        next(iter(small.step(batch)))
    finally:
        pool.undo()
    for back, fore in zip(seen[::2], seen[1::2], strict=True):
        assert torch.allclose(back + fore, torch.ones_like(fore))


@pytest.fixture
def published(golden) -> dict[str, torch.Tensor]:
    arrays = np.load(golden / "superpixel-fewshot" / "episode.npz")
    return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays}


@pytest.fixture
def handed(published):
    """A method whose encoder gives the published features, and the published episode."""
    small = method(patch_size=(256, 256), stride=8)
    features = torch.cat([published["support_feat"], published["query_feat"]])
    small.features = lambda image: features
    blank = torch.zeros(1, 1, 256, 256)
    support, query = (published[name].float() for name in ("support_fg", "query_label"))
    return small, Episode(blank, support, blank, query)


def test_logits_equal_the_published_episode(published, handed):
    small, batch = handed
    support, query = small.features(None).chunk(2)
    logits = small._segment(query, support, batch.support_region, small.train_window)
    assert logits.abs().max() <= 20 + 1e-4
    large = torch.nn.functional.interpolate(logits, size=(256, 256), mode="bilinear")
    shown = large[:, :, ::8, ::8]
    assert (shown - published["logits_stride8"]).abs().max() < 1e-3
    gap = shown[:, 1] - shown[:, 0]
    assert (gap - published["logits_fg_minus_bg_stride8"]).abs().max() < 2e-3


def test_both_losses_equal_the_published_episode(published, handed):
    """The query's is weighted 0.05 to 1 and divided by the weights' sum, the alignment's is not; the total is their sum."""
    small, batch = handed
    (update,) = small.step(batch)
    assert float(update.shows["query"]) == pytest.approx(
        float(published["query_ce_weighted"]), abs=1e-4
    )
    assert float(update.shows["align"]) == pytest.approx(float(published["align_loss"]), abs=1e-4)
    assert float(update.loss) == pytest.approx(0.57404 + 1.30252, abs=1e-4)


def test_without_anything_found_there_is_nothing_to_align(handed):
    small, batch = handed
    small._segment = lambda *given: torch.tensor([5.0, -5.0]).view(1, 2, 1, 1).expand(1, 2, 32, 32)
    (update,) = small.step(batch)
    assert float(update.shows["align"]) == 0
    assert update.loss.isfinite()


def test_a_batch_counts_each_episode_alike(prepared):
    small = method().eval()
    each = episodes(small, prepared(), 2)
    collate = torch.utils.data.default_collate
    with torch.no_grad():
        alone = [float(next(iter(small.step(collate([one])))).loss) for one in each]
        together = float(next(iter(small.step(collate(each)))).loss)
    assert together == pytest.approx(sum(alone) / 2, rel=1e-4)


def test_the_rate_falls_by_five_percent_every_thousand_steps():
    made, schedule = method().optimiser("main", [nn.Linear(1, 1)])
    assert isinstance(made, torch.optim.SGD)
    assert made.defaults["momentum"] == 0.9
    assert made.defaults["weight_decay"] == 5e-4
    assert made.defaults["lr"] == 1e-3
    assert isinstance(schedule, BySteps)
    for thousands in (0, 1, 7, 100):
        assert schedule.factor(1000 * thousands) == pytest.approx(0.95**thousands)
        assert schedule.factor(1000 * thousands + 999) == pytest.approx(0.95**thousands)
    adam, _ = method(optimiser="adam").optimiser("main", [nn.Linear(1, 1)])
    assert isinstance(adam, torch.optim.Adam)


def test_training_cells_are_an_eighth_of_the_grid():
    assert method(patch_size=(256, 256), stride=8).train_window == [4, 4]
    assert method(patch_size=(64, 96), stride=8).train_window == [1, 1]
    assert method(patch_size=(64, 96), stride=2).train_window == [4, 6]


def test_scoring_cells_have_the_edge_of_the_task_and_training_cells_their_own(
    prepared, monkeypatch
):
    """As few-shot segmentation does; at 256 pixels training cells have an edge of 4, these of 2."""
    assert Options().test_window == 2
    small = method(prototype_grid=4, test_window=3).eval()
    batch = torch.utils.data.default_collate(episodes(small, prepared(), 2))
    seen = []
    inner = small._segment
    monkeypatch.setattr(
        small, "_segment", lambda *given: seen.append(tuple(given[3])) or inner(*given)
    )
    with torch.no_grad():
        small.score(batch)
        next(iter(small.step(batch)))
    assert seen == [(3, 3), (4, 4), (4, 4)]


def test_setting_two_leaves_out_every_slice_with_an_organ_of_the_task(prepared):
    records = prepared("volumes")
    every = method().slices(records)
    assert len(every) > 7
    kept = method(exclude_labels=(2,)).slices(records)
    assert 0 < len(kept) < len(every)
    for item in every:
        mask = item.record.mask_patch((0, 0, item.plane), (*item.record.space[:2], 1))
        assert ((mask == 2).any().item()) == (item not in kept)
    with pytest.raises(DataError, match="has no mask") as fault:
        method(exclude_labels=(2,)).slices(prepared())
    assert "mask" in fault.value.remedy


def test_only_slices_with_superpixels_are_listed(prepared, monkeypatch):
    (record, *_) = prepared("volumes")
    counts = record.extras[COUNTS].whole().reshape(-1)
    assert [item.plane for item in method().slices([record])] == np.flatnonzero(counts).tolist()


def test_without_any_range_both_views_are_the_slice_itself(prepared):
    small = method(**STILL)
    item = small.slices(prepared())[0]
    episode = small.views(item, generator(0))
    assert torch.equal(episode.support_region, episode.query_region)
    assert (episode.support - episode.query).abs().max() < 1e-4
    starts = [(first, second) for first in range(9) for second in range(3)]
    closest = min(
        float((item.patch(start, (64, 64)) - episode.support).abs().max()) for start in starts
    )
    assert closest < 1e-4


def test_slices_smaller_than_the_patch_are_padded(prepared):
    small = method(patch_size=(96, 96), **STILL)
    episode = small.views(small.slices(prepared())[0], generator(0))
    assert episode.support.shape == (1, 96, 96)
    assert (episode.support[:, :12] < 1e-4).all()
    assert (episode.support_region[:12] == 0).all()


def test_same_seed_same_episode(prepared):
    small = method()
    item = small.slices(prepared())[0]
    first, again = (small.views(item, generator(3)) for _ in range(2))
    other = small.views(item, generator(4))
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first.support, other.support)


def test_official_draws_leave_the_highest_number_out(prepared):
    """In clean mode every region is drawn; in official mode never the last one."""
    found = {}
    for fidelity in ("clean", "official"):
        options = {"fidelity": fidelity, **STILL}
        small = method(**options)
        item = small.slices(prepared(**options))[0]
        whole = item.labels(REGIONS, (0, 0), item.record.space)
        drawn = set()
        for seed in range(150):
            region = small._draw_region(int(whole.max()), whole, whole, 0, generator(seed))
            drawn.add(region)
        found[fidelity] = (drawn, int(whole.max()))
    drawn, highest = found["clean"]
    assert drawn == set(range(1, highest + 1))
    drawn, highest = found["official"]
    assert highest not in drawn
    assert 0 in drawn  # the empty number: the episode is drawn again


def test_a_slice_whose_regions_no_view_keeps_is_named(prepared):
    small = method(patch_size=(64, 64), shift=500.0)
    with pytest.raises(DataError, match="no superpixel") as fault:
        small.views(small.slices(prepared())[0], generator(0))
    assert "--patch-size" in fault.value.remedy


@pytest.mark.parametrize(
    ("options", "fact", "remedy"),
    [
        ({"zoom": (1.2, 0.9)}, "--zoom 1.2 0.9", "--zoom 0.9 1.2"),
        ({"gamma": (1.5, 0.5)}, "--gamma 1.5 0.5", "--gamma 0.5 1.5"),
        ({"cell_threshold": 1.5}, "--cell-threshold is 1.5", "0 to 1"),
        ({"encoder": "unet", "patch_size": (60, 64)}, "multiples of 8", "--patch-size"),
    ],
)
def test_wrong_options_are_named(options, fact, remedy):
    with pytest.raises(OptionError, match=fact) as fault:
        method(**options)
    assert remedy in fault.value.remedy


def test_scans_that_cannot_serve_are_named(prepared):
    blank = prepared("pictures", body_threshold=255.0)[0]
    with pytest.raises(ScanError, match="no superpixel") as fault:
        SuperpixelFewShot.require(blank, Options(**SMALL))
    assert "--body-threshold" in fault.value.remedy
    with pytest.raises(ScanError, match="no mask"):
        SuperpixelFewShot.require(prepared()[0], Options(**SMALL, exclude_labels=(1,)))
    SuperpixelFewShot.require(prepared("volumes")[0], Options(**SMALL, exclude_labels=(1,)))


def test_volumes_cannot_be_asked_for_in_3d(folder, tmp_path):
    with pytest.raises(OptionError, match="--dims 3"):
        pretrain(
            "superpixel-fewshot",
            folder / "volumes" / "images",
            tmp_path / "run",
            options=Options(**{**SMALL, "steps": 1, "dims": 3}),
            cache=tmp_path / "cache",
            quiet=True,
        )


def test_carried_weights_are_the_trained_ones():
    small = method()
    assert set(small.carries()) == {"encoder", "embedding"}
    assert small.carries()["embedding"] is small.embedding


def test_score_by_hand():
    small = method(patch_size=(4, 4))
    truth = torch.zeros(1, 4, 4)
    truth[:, :2] = 1
    found = torch.zeros(1, 4, 4)
    found[:, 1:3] = 1
    small.segment = lambda batch: found
    blank = torch.zeros(1, 1, 4, 4)
    scores = small.score(Episode(blank, truth, blank, truth))
    assert float(scores["dice"]) == pytest.approx(0.5)
    assert float(scores["dice_everything"]) == pytest.approx(2 * 0.5 / 1.5)


def test_preview_shows_the_episode(prepared):
    small = method().eval()
    batch = torch.utils.data.default_collate(episodes(small, prepared(), 2))
    shown = small.preview(batch)
    assert list(shown) == ["support", "query", "found", "truth"]
    for each in shown.values():
        assert each.shape == (2, 3, 64, 64)
        assert 0 <= each.min() <= each.max() <= 1
    red = (shown["truth"][:, 0] > shown["truth"][:, 1] + 0.1).float()
    assert torch.equal(red, batch.query_region)


def test_the_pictures_own_file_is_not_changed(folder, prepared):
    prepared()
    with Image.open(next((folder / "pictures").glob("*.png"))) as picture:
        assert picture.size == (66, 72)


def abdomen(seed: int, edge: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Draw a slice of a made-up body: three organs, tissue and vessels of other brightness, a scanner's gain, much noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:edge, :edge] / edge - 0.5
    move = rng.uniform(-0.03, 0.03, 2)
    image, mask = np.zeros((edge, edge)), np.zeros((edge, edge), np.uint8)

    def ellipse(centre: Sequence[float], radii: tuple[float, float]) -> np.ndarray:
        middle = np.add(centre, move) + rng.uniform(-0.02, 0.02, 2)
        height, width = np.multiply(radii, rng.uniform(0.85, 1.15, 2))
        return ((y - middle[0]) / height) ** 2 + ((x - middle[1]) / width) ** 2 < 1

    body = ellipse((0, 0), (0.4, 0.46))
    image[body] = 0.3
    for _ in range(5):
        image[body & ellipse(rng.uniform(-0.3, 0.3, 2), (0.12, 0.12))] = rng.uniform(0.2, 0.4)
    for label, (centre, radii, level) in enumerate(
        [
            ((-0.06, -0.2), (0.19, 0.15), 0.6),
            ((-0.1, 0.22), (0.13, 0.13), 0.75),
            ((0.18, 0.12), (0.12, 0.14), 0.5),
        ],
        start=1,
    ):
        inside = ellipse(centre, radii)
        image[inside], mask[inside] = level, label
    for _ in range(3):
        spot = ellipse(rng.uniform(-0.25, 0.25, 2), (0.04, 0.04))
        image[spot & body & (mask == 0)] = rng.uniform(0.5, 0.9)
    image[body] += rng.normal(0, 0.25, int(body.sum()))
    return (np.clip(image * rng.uniform(0.85, 1.0), 0, 1) * 255).astype(np.uint8), mask


def write_abdomens(folder: Path) -> tuple[Path, Path]:
    """Write thirty unlabelled slices, and a manifest of one support and nine to test on."""
    (folder / "scans").mkdir(parents=True)
    (folder / "masks").mkdir()
    rows = []
    for number in range(40):
        image, mask = abdomen(number)
        place = folder / ("scans" if number < 30 else ".") / f"a{number}.png"
        Image.fromarray(image).save(place)
        if number >= 30:
            Image.fromarray(mask).save(folder / "masks" / place.name)
            rows.append(
                {
                    "image": place.name,
                    "mask": f"masks/{place.name}",
                    "split": "train" if number == 30 else "test",
                }
            )
    return folder / "scans", write_manifest(folder / "labelled.csv", rows)


def learn(folder: Path, scans: Path, name: str, **options) -> tuple[Path, float]:
    """Pretrain a small network; give the run and the Dice of held-out superpixels."""
    own = {
        "encoder": "resenc-tiny",
        "patch_size": (64, 64),
        "stride": 2,
        "width": 64,
        "sigma": 2.5,
        "min_size": 60,
        "smallest_region": 30,
        "elastic": 0.0,
        "optimiser": "adam",
        "steps": 300,
        **options,
    }
    done = pretrain(
        "superpixel-fewshot",
        scans,
        folder / name,
        options=Options(**own),
        cache=folder / "cache",
        accelerator="cpu",
        quiet=True,
        workers=0,
        score_every=10_000,
        held_out_batches=12,
    )
    return done.out, done.result.score["dice"]


def organ_dice(folder: Path, labelled: Path, name: str, **start) -> float:
    """Segment by the labelled support; give the mean Dice of the organs on the test scans."""
    done = finetune(
        "few-shot",
        labelled,
        folder / name,
        cache=folder / "cache",
        dims=2,
        test=True,
        accelerator="cpu",
        quiet=True,
        workers=0,
        **start,
    )
    return done.metrics["test"].measures["dice"].value


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_on_phantoms(tmp_path, proof):
    """From one labelled slice, organs of unseen slices are found far better than by the same network untrained."""
    scans, labelled = write_abdomens(tmp_path / "data")
    run, episode = learn(tmp_path, scans, "run")
    trained = organ_dice(tmp_path, labelled, "few", init=run)
    untrained = organ_dice(tmp_path, labelled, "chance", init="scratch", like=run)
    proof(
        "superpixel-fewshot",
        data="phantom-abdomen",
        organ_dice=trained,
        organ_dice_untrained=untrained,
        episode_dice=episode,
    )
    assert trained > untrained + 0.15


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_fails_with_the_query_of_another_region(tmp_path, proof, monkeypatch):
    """The signal is cut: support and query show different superpixels, and held-out episodes stay near chance."""
    views = SuperpixelFewShot.views

    def unpaired(self: SuperpixelFewShot, item: Slice, rng: torch.Generator) -> Episode:
        episode, other = views(self, item, rng), views(self, item, rng)
        return episode._replace(query=other.query, query_region=other.query_region)

    scans, labelled = write_abdomens(tmp_path / "data")
    with monkeypatch.context() as patch:
        patch.setattr(SuperpixelFewShot, "views", unpaired)
        run, _ = learn(tmp_path, scans, "run")
    trained = organ_dice(tmp_path, labelled, "few", init=run)
    untrained = organ_dice(tmp_path, labelled, "chance", init="scratch", like=run)
    proof("superpixel-fewshot", data="phantom-abdomen", organ_dice_unpaired=trained)
    assert trained < untrained + 0.15


HEART = {"modality": "MR", "spacing": (1.64, 1.64, 5.0)}  # half of the pixels along each axis


def write_heart(folder: Path, real: Path) -> tuple[Path, Path]:
    """List two phases of a heart's short- and long-axis stacks without labels; the first labelled, the last three to test on."""
    folder.mkdir()
    short, long = (real / f"pig_gip17_{axis}_cine.nii.gz" for axis in ("sax", "lax"))
    scans = [
        {"image": str(stack), "frame": str(phase), "subject": f"phase {phase}"}
        for stack in (short, long)
        for phase in (0, 1)
    ]
    labelled = [
        {
            "image": str(short),
            "frame": str(phase),
            "mask": str(real / "pig_gip17_sax_lvseg.nii.gz"),
            "subject": f"phase {phase}",
            "split": part,
        }
        for phase, part in ((0, "train"), (2, "test"), (3, "test"), (4, "test"))
    ]
    return (
        write_manifest(folder / "scans.csv", scans),
        write_manifest(folder / "labelled.csv", labelled),
    )


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_small_scale_proof_on_a_real_heart(shared_data, tmp_path, proof):
    """One animal: later phases are segmented by the first one, and better after episodes of superpixels without the air."""
    real = shared_data / "cardiac-cine-mri"
    scans, labelled = write_heart(tmp_path / "data", real.resolve())
    own = {
        "patch_size": (128, 128),
        "prototype_grid": 16,
        "sigma": 1.0,
        "min_size": 100,
        "smallest_region": 25,
        "elastic": 10.0,
        "body_threshold": 30.0,
        "steps": 200,
        **HEART,
    }
    run, episode = learn(tmp_path, scans, "run", **own)
    trained = organ_dice(tmp_path, labelled, "few", init=run, **HEART)
    untrained = organ_dice(tmp_path, labelled, "chance", init="scratch", like=run, **HEART)
    proof(
        "superpixel-fewshot",
        data="cardiac-cine-mri",
        organ_dice=trained,
        organ_dice_untrained=untrained,
        episode_dice=episode,
    )
    assert trained > untrained
