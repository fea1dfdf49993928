"""Every must-have of context restoration, and that a small network learns to put patches of real scans back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hippocampi import hippocampi
from PIL import Image
from torch import nn

from unlabeled.data.intensity import IntensityRule
from unlabeled.data.labels import Labels
from unlabeled.errors import OptionError, UnlabeledError
from unlabeled.methods.context_restoration import ContextRestoration, Options, Sample
from unlabeled.nn.encoders import build_encoder
from unlabeled.nn.sononet import SonoNetEncoder
from unlabeled.rng import generator
from unlabeled.training.loader import held_out_batch
from unlabeled.training.pretrain import pretrain
from unlabeled.transfer.task import FinetuneOptions, Given
from unlabeled.transfer.tasks import Classify, Segment

QUICK = {"quiet": True, "accelerator": "cpu", "workers": 0}
SMALL = {"encoder": "resenc-tiny", "batch_size": 2}
BOTH = pytest.mark.parametrize("dims", [2, 3])


class Held:
    """A record in memory: an image that is already under its intensity rule, zero beyond."""

    def __init__(self, array: torch.Tensor, foreground=None) -> None:
        self.array, self.channels, self.space = array, len(array), tuple(array.shape[1:])
        self.dims = len(self.space)
        self.foreground = foreground or tuple((0, edge) for edge in self.space)
        self.source = SimpleNamespace(name="case.nii.gz")

    def patch(self, start, size) -> torch.Tensor:
        padded = F.pad(self.array, [side for edge in size[::-1] for side in (edge, edge)])
        return padded[(slice(None), *(slice(a + n, a + 2 * n) for a, n in zip(start, size, strict=True)))]  # fmt: skip


def numbered(channels: int, *space: int, **kept) -> Held:
    """A scan whose voxels all differ and are none of them zero."""
    count = channels * int(np.prod(space))
    return Held((torch.arange(count).float() + 1).reshape(channels, *space), **kept)


def method(*, dims: int = 2, channels: int = 1, **options) -> ContextRestoration:
    torch.manual_seed(0)
    options = {**SMALL, "patch_size": (32, 32, 16)[:dims], **options}
    encoder = build_encoder(options["encoder"], dims=dims, in_channels=channels)
    return ContextRestoration(Options(**options), encoder)


def samples(made: ContextRestoration, record: Held, count: int = 2) -> Sample:
    drawn = [made.views(record, generator(seed, "views")) for seed in range(count)]
    return torch.utils.data.default_collate(drawn)


def record_of(dims: int, channels: int = 1) -> Held:
    return numbered(channels, *(40, 36, 20)[:dims])


@BOTH
def test_must_have_1_intensities_stay_the_same_in_every_channel(dims):
    made = method(dims=dims, channels=2)
    for seed in range(30):
        damaged, intact = made.views(record_of(dims, 2), generator(seed))
        assert not torch.equal(damaged, intact)
        assert torch.equal(damaged.flatten(1).sort().values, intact.flatten(1).sort().values)


def test_must_have_2_no_swap_changes_nothing_and_one_at_most_two_patches():
    nothing, one = method(swaps=0), method(swaps=1, swap_edges=(4, 3))
    for seed in range(20):
        damaged, intact = nothing.views(record_of(2), generator(seed))
        assert torch.equal(damaged, intact)
        damaged, intact = one.views(record_of(2), generator(seed))
        assert int((damaged != intact).sum()) == 2 * 4 * 3
    assert "autoencoder" in nothing.notes()[0]
    assert one.notes() == ()


def test_must_haves_3_and_4_the_network_sees_pairs_apart_that_can_be_undone():
    """The property tests over 10,000 draws are the transform's own."""
    made = method()
    intact = numbered(1, 32, 32).array
    plan = made.swap.draw((32, 32), generator(0))
    assert len(plan.swaps) == 10
    assert torch.equal(plan.undoing(plan(intact)), intact)


@BOTH
def test_must_have_5_all_channels_move_alike(dims):
    made = method(dims=dims, channels=3)
    one = record_of(dims).array
    damaged, _ = made.views(Held(torch.cat([one, one + 1e5, one + 2e5])), generator(1))
    assert torch.equal(damaged[0], damaged[1] - 1e5)
    assert torch.equal(damaged[0], damaged[2] - 2e5)


@BOTH
def test_must_have_6_patches_reach_the_last_voxel_of_every_axis(dims):
    made = method(dims=dims, swap_edges=(5, 5, 4)[:dims])
    record = numbered(1, *made.patch)
    moved = torch.zeros(1, *made.patch)
    for seed in range(400):
        damaged, intact = made.views(record, generator(seed))
        moved += damaged != intact
    for axis in range(1, dims + 1):
        ends = moved.transpose(1, axis)[:, [0, -1]]
        assert (ends.flatten(2).sum(2) > 0).all(), axis


def test_must_have_7_the_loss_is_the_error_over_all_voxels_of_the_intact_patch():
    made = method()
    record = record_of(2)
    sample = made.views(record, generator(0))
    place = (record.array[0] == sample.intact[0, 0, 0]).nonzero()[0].tolist()
    cut = record.array[:, place[0] : place[0] + 32, place[1] : place[1] + 32]
    assert torch.equal(sample.intact, cut)
    sample.damaged.zero_()
    assert torch.equal(sample.intact, cut)
    made.restore = lambda damaged: damaged * 0 + 2.0
    damaged, intact = torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    intact[0, 0, 0, 0] = 10.0
    (update,) = made.step(Sample(damaged, intact))
    assert float(update.loss) == pytest.approx((64 + 31 * 4) / 32)


def test_must_have_8_classification_takes_the_analysis_part_segmentation_all_but_the_last_layer():
    options = FinetuneOptions(encoder="resenc-tiny", patch_size=(32, 32))
    for links, carried in ((True, {"encoder", "decoder"}), (False, {"encoder"})):
        made = method(links=links)
        parts = made.carries()
        assert set(parts) == carried
        tensors = {
            f"{part}.{name}": tensor
            for part, module in parts.items()
            for name, tensor in module.state_dict().items()
        }
        torch.manual_seed(1)
        fresh = [build_encoder("resenc-tiny", dims=2) for _ in range(2)]
        segment = Segment(options, fresh[0], Labels((0, 1), ("background", "organ")))
        for task in (segment, Classify(options, fresh[1], ("a", "b"))):
            given = Given(
                options=options, encoder=task.encoder, records=(), train=(), tensors=tensors
            )
            taken = task.load(given, [])
            wanted = {
                f"decoder.{name}"
                for name in segment.decoder.state_dict()
                if links and task is segment and not name.startswith("head.")
            }
            assert taken == wanted
        if links:
            for name, tensor in segment.decoder.state_dict().items():
                if not name.startswith("head."):
                    assert torch.equal(tensor, made.decoder.state_dict()[name]), name


def test_must_have_9_the_same_place_gives_the_same_damage_and_held_out_damage_is_constant():
    made = method()
    record = record_of(2)
    first, again, other = (made.views(record, generator(7, n)) for n in (3, 3, 4))
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first.damaged, other.damaged)
    (phase,) = made.phases()
    feeds = {name: [record] * 4 for name in phase.feeds}
    one, two = (held_out_batch(phase, feeds, seed=0, number=0) for _ in range(2))
    assert torch.equal(one.damaged, two.damaged)


@pytest.mark.parametrize(
    ("options", "fact", "remedy"),
    [
        ({"swap_edges": (33, 4)}, "do not fit side by side", "--swap-edges 4 4"),
        ({"swap_edges": (17, 17)}, "do not fit side by side", "--swap-edges 4 4"),
        ({"swap_shares": (0.6, 0.9)}, "do not fit side by side", "--swap-edges 4 4"),
        ({"swap_edges": (4,)}, "--swap-edges has 1 edges", "--swap-edges 4 4"),
        ({"swap_shares": (0.5, 0.1)}, "from 0.5 to 0.1", "--swap-shares 0.1 0.5"),
        ({"ct_window": (240.0, -160.0)}, "from 240.0 to -160.0", "--ct-window -160.0 240.0"),
        ({"ct_window": (5.0, 5.0)}, "from 5.0 to 5.0", "--ct-window -160 240"),
        ({"patch_size": (32,)}, "1 edges", "--patch-size 32 32"),
        ({"encoder": "unet", "patch_size": (30, 32)}, "multiples of 8", "--patch-size 32 32"),
        ({"swaps": -1}, "--swaps is -1", "at least 0"),
        ({"intensities": "raw"}, "not one of window, zscore", ""),
    ],
)
def test_must_have_10_patches_too_large_and_other_wrong_options_are_named(options, fact, remedy):
    with pytest.raises(OptionError, match=fact) as fault:
        method(**options)
    assert remedy in fault.value.remedy


@BOTH
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("links", [True, False])
def test_must_have_12_pictures_volumes_and_several_channels(dims, channels, links):
    made = method(dims=dims, channels=channels, links=links)
    batch = samples(made, record_of(dims, channels))
    assert batch.damaged.shape == batch.intact.shape == (2, channels, *made.patch)
    (update,) = made.step(batch)
    update.loss.backward()
    assert all(each.grad is not None for each in made.decoder.parameters())
    assert made.restore(batch.damaged).shape == batch.intact.shape


def test_slices_of_volumes():
    made = method(dims=2)
    damaged, intact = made.views(record_of(3), generator(0))
    assert damaged.shape == intact.shape == (1, 32, 32)
    assert (intact.diff(dim=-1) == 20).all(), "neighbours of an axial slice"


def test_what_lies_beyond_the_scan_stays_there():
    made = method()
    for seed in range(20):
        damaged, _ = made.views(numbered(1, 20, 40), generator(seed))
        assert (damaged[:, :6] == 0).all()
        assert (damaged[:, 6:26] > 0).all()


def test_only_the_foreground_is_swapped_where_that_is_asked_for():
    record = numbered(1, 32, 32, foreground=((8, 24), (0, 16)))
    for asked, inside in ((True, True), (False, False)):
        made = method(foreground=asked, swap_edges=(4, 4))
        outside = torch.zeros(1, 32, 32, dtype=torch.bool)
        for seed in range(20):
            damaged, intact = made.views(record, generator(seed))
            outside |= damaged != intact
        outside[:, 8:24, 0:16] = False
        assert outside.any() != inside
    tiny = numbered(1, 32, 32, foreground=((8, 10), (0, 16)))
    damaged, intact = method(foreground=True, swap_edges=(4, 4)).views(tiny, generator(0))
    assert int((damaged != intact).sum()) > 2 * 16, "a box too small for a patch does not count"


def test_flips_are_of_both_alike():
    made = method(p_flip=0.6, swaps=1)
    record = numbered(1, 32, 32)
    flips = [record.array.flip(axes) for axes in ((), (1,), (2,), (1, 2))]
    seen = set()
    for seed in range(30):
        damaged, intact = made.views(record, generator(seed))
        (which,) = (n for n, flipped in enumerate(flips) if torch.equal(intact, flipped))
        seen.add(which)
        assert (damaged != intact).float().mean() < 0.05
    assert len(seen) > 2


def test_without_links_the_bottleneck_says_everything():
    """Deconvolutions see the coarsest map alone; with links finer maps reach the output."""
    for links, reaches in ((True, True), (False, False)):
        made = method(links=links).eval()
        with torch.no_grad():
            maps = made.encoder(torch.rand(1, 1, 32, 32))
            changed = [maps[0] + 1, *maps[1:]]
            same = torch.equal(made.decoder(maps, (32, 32)), made.decoder(changed, (32, 32)))
        assert same != reaches


def test_the_paper_s_classification_network():
    made = method(encoder="sononet-64", links=False)
    assert isinstance(made.encoder, SonoNetEncoder)
    widths = [each.out_channels for each in made.decoder.layers if hasattr(each, "out_channels")]
    assert widths == [256, 128, 64, 32]
    assert made.restore(torch.rand(2, 1, 32, 32)).shape == (2, 1, 32, 32)


def test_intensities():
    assert ContextRestoration.intensity(Options()) == IntensityRule(ct=(-160.0, 240.0))
    own = Options(intensities="zscore", ct_window=(-1000.0, 400.0))
    assert ContextRestoration.intensity(own) == IntensityRule(kind="zscore", ct=(-1000.0, 400.0))


def test_optimiser():
    adam, schedule = method().optimiser("main", [nn.Linear(1, 1)])
    assert isinstance(adam, torch.optim.Adam)
    assert adam.defaults["lr"] == 1e-3
    assert [round(schedule(epoch, 200), 3) for epoch in (0, 100, 200)] == [1.0, 0.5, 0.0]


def test_score_by_hand():
    made = method()
    intact = torch.zeros(1, 1, 4, 4)
    intact[..., 0, 0] = 1.0
    damaged = intact.flip(-1)
    made.restore = lambda image: torch.full_like(image, 0.5)
    scores = {name: float(value) for name, value in made.score(Sample(damaged, intact)).items()}
    assert scores == pytest.approx(
        {
            "mse": 0.25,
            "mse_swapped": 0.25,
            "identity": 2 / 16,
            "identity_swapped": 1.0,
            "variance": 1 / 16 * 15 / 16,
            "swapped": 2 / 16,
        }
    )
    untouched = made.score(Sample(intact, intact))
    assert float(untouched["mse_swapped"]) == float(untouched["identity"]) == 0


def test_preview_shows_the_task_in_any_unit():
    made = method()
    batch = Sample(torch.randn(2, 1, 32, 32) * 3, torch.randn(2, 1, 32, 32) * 3)
    shown = made.preview(batch)
    assert list(shown) == ["intact", "damaged", "restored", "error"]
    assert all(each.min() >= 0 and each.max() <= 1 for each in shown.values())
    made.restore = lambda image: batch.intact
    assert made.preview(batch)["error"].max() == 0


def test_pictures_are_refused_for_networks_of_three_axes(tmp_path):
    write(tmp_path / "scans" / "images", 4, blobs)
    with pytest.raises(UnlabeledError, match="3"):
        run(tmp_path, steps=1, dims=3, patch_size=(16, 16, 16))
    assert not list((tmp_path / "run").glob("encoder*"))


def blobs(rng: np.random.Generator) -> np.ndarray:
    """A body with five organs: places and sizes vary, their order and brightness do not."""
    rows, columns = np.meshgrid(np.linspace(-1, 1, 64), np.linspace(-1, 1, 64), indexing="ij")
    shift = rng.uniform(-0.06, 0.06, 2)
    image = np.zeros((64, 64), np.float32)
    for centre, radii, level in [
        ((0, 0), (0.9, 0.75), 70),
        ((-0.45, -0.3), (0.22, 0.25), 130),
        ((-0.45, 0.3), (0.22, 0.2), 30),
        ((0.1, -0.35), (0.2, 0.22), 190),
        ((0.1, 0.35), (0.25, 0.18), 110),
        ((0.6, 0.0), (0.15, 0.2), 240),
    ]:
        middle = np.array(centre) + shift + rng.uniform(-0.04, 0.04, 2)
        edges = np.array(radii) * rng.uniform(0.9, 1.1, 2)
        image[((rows - middle[0]) / edges[0]) ** 2 + ((columns - middle[1]) / edges[1]) ** 2 < 1] = level  # fmt: skip
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def noise(rng: np.random.Generator) -> np.ndarray:
    """No layout at all."""
    return rng.integers(0, 256, (64, 64)).astype(np.uint8)


def write(folder: Path, count: int, draw) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        image = draw(np.random.default_rng([4, number]))
        Image.fromarray(image).save(folder / f"{number:03}.png")
    return folder


def run(place: Path, **options):
    options = {"encoder": "resenc-tiny", "batch_size": 2, "samples_per_scan": 1, **options}
    scans = options.pop("scans", place / "scans" / "images")
    return pretrain(
        "context-restoration", scans, place / "run", cache=place / "cache",
        epochs=options.pop("epochs", options["steps"]), **QUICK, **options,
    )  # fmt: skip


def learn(place: Path, scans: Path, **options) -> dict[str, float]:
    """Pretrain a narrow network; give its scores on held-out subjects, errors as shares of giving back the input."""
    options = {
        "encoder": "care-unet-tiny", "lr": 2e-3, "batch_size": 8, "samples_per_scan": 4,
        "dims": 2, "held_out_batches": 4, "patience": 100, "epochs": 8, **options,
    }  # fmt: skip
    score = run(place, scans=scans, **options).result.score
    return {
        "mse": score["mse"],
        "identity": score["identity"],
        "variance": score["variance"],
        "ratio": score["mse"] / score["identity"],
        "ratio_swapped": score["mse_swapped"] / score["identity_swapped"],
        "swapped": score["swapped"],
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_must_have_11_small_scale_proof_on_phantoms(tmp_path, proof):
    """Where organs have their order, patches are put back; where there is no order, nothing can be."""
    options = {"patch_size": (64, 64), "swap_edges": (8, 8), "steps": 400}
    scores, broken = (
        learn(tmp_path / draw.__name__, write(tmp_path / draw.__name__ / "s", 200, draw), **options)
        for draw in (blobs, noise)
    )
    proof("context-restoration", data="phantom", **scores, ratio_of_noise=broken["ratio"])
    assert scores["ratio"] < 0.5
    assert scores["ratio_swapped"] < 0.5
    assert broken["ratio"] > 0.85


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_on_real_scans(shared_data, tmp_path, proof):
    """On slices of hippocampus MRI the network copies what is right and replaces what is wrong.

    Copying everything has an error of 1 on swapped voxels, as a share of the input's; giving back the mean everywhere has
    about a half there, but the variance over all.  To fall below the input's error over all voxels takes longer.
    """
    scans = hippocampi(shared_data, tmp_path) / "images"
    scores = learn(tmp_path, scans, patch_size=(32, 48), steps=500)
    proof("context-restoration", data="hippocampus-mri slices", **scores)
    assert scores["ratio_swapped"] < 0.65
    assert scores["mse"] < 0.6 * scores["variance"]
