"""Every must-have of Rubik's cube++, and that a small network learns to turn the layers of real scans back."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hippocampi import hippocampi
from torch import nn
from torch.utils.data import default_collate

from unlabeled.data.intensity import IntensityRule
from unlabeled.data.labels import Labels
from unlabeled.demo.phantoms import write_patients
from unlabeled.errors import DataError, OptionError
from unlabeled.losses.adversarial import convince
from unlabeled.methods.rubiks_cube_volume_wise import Options, RubiksCubeVolumeWise, Sample
from unlabeled.nn.encoders import build_encoder
from unlabeled.nn.weights import read_weights
from unlabeled.rng import generator
from unlabeled.training.log import RunFolder
from unlabeled.training.pretrain import pretrain
from unlabeled.transfer.task import FinetuneOptions, Given
from unlabeled.transfer.tasks import Classify, Segment
from unlabeled.transforms.planes import three_planes
from unlabeled.transforms.turning import LayerPlan, LayerTurn, LayerTurns

STEPS = 300
SMALL = {
    "encoder": "resenc-tiny",
    "patch_size": (12, 12, 12),
    "side": 3,
    "critic_width": 4,
    "critic_layers": 1,
    "batch_size": 2,
}
QUIET = {"quiet": True, "accelerator": "cpu", "workers": 0, "held_out_batches": 1}


def held(array: torch.Tensor) -> SimpleNamespace:
    """A record in memory, ``channel *space``, zero beyond."""
    space = tuple(array.shape[1:])

    def patch(start, size):
        padded = F.pad(array, [side for edge in size[::-1] for side in (edge, edge)])
        return padded[(slice(None), *(slice(a + n, a + 2 * n) for a, n in zip(start, size, strict=True)))]  # fmt: skip

    return SimpleNamespace(space=space, patch=patch)


def numbered(channels: int, *space: int) -> SimpleNamespace:
    """A scan whose voxels all differ, between 0 and 1."""
    count = channels * math.prod(space)
    return held(((torch.arange(float(count)) + 1) / (count + 1)).view(channels, *space))


def method(channels: int = 1, **options) -> RubiksCubeVolumeWise:
    torch.manual_seed(0)
    made = Options(**{**SMALL, **options})
    return RubiksCubeVolumeWise(made, build_encoder(made.encoder, dims=3, in_channels=channels))


def batch_of(made: RubiksCubeVolumeWise, count: int = 2, channels: int = 1) -> Sample:
    rng = generator(0, "scans")
    scans = [held(torch.rand(channels, 14, 12, 13, generator=rng)) for _ in range(count)]
    drawn = [made.views(scan, generator(at)) for at, scan in enumerate(scans)]
    return default_collate(drawn)


def perform(made: RubiksCubeVolumeWise, batch: Sample, look=lambda name: None) -> list[str]:
    """Do one step of the last phase as the loop does; call `look` after each update."""
    phase = made.phases()[-1]
    optimisers = {name: made.optimiser(name, parts)[0] for name, parts in phase.trains.items()}
    done = []
    for update in phase.step(batch):
        optimisers[update.of].zero_grad()
        update.loss.backward()
        optimisers[update.of].step()
        done.append(update.of)
        look(update.of)
    return done


def flat(image: torch.Tensor) -> list[float]:
    return image.flatten().tolist()


def test_must_have_1_all_voxels_stay():
    made = method(channels=2)
    for seed in range(20):
        turned, intact = made.views(numbered(2, 16, 13, 12), generator(seed))
        assert turned.shape == intact.shape == (2, 12, 12, 12)
        assert torch.equal(turned.flatten(1).sort().values, intact.flatten(1).sort().values)
        assert not torch.equal(turned, intact)


def test_must_have_2_no_turn_changes_nothing():
    made = method(turns=0)
    for seed in range(5):
        turned, intact = made.views(numbered(1, 16, 13, 12), generator(seed))
        assert torch.equal(turned, intact)
    assert "autoencoder" in made.notes()[0]


def test_must_have_3_the_turns_can_be_undone():
    made = method()
    intact = numbered(1, 12, 12, 12).patch((0, 0, 0), made.patch)
    plan = made.turn.draw(made.patch, generator(3))
    turned = made.turn(intact, generator(3))
    assert len(plan.turns) == 4
    assert torch.equal(turned, plan(intact))
    for axis, layer, quarters in reversed(plan.turns):
        turned = LayerPlan(3, (LayerTurn(axis, layer, (4 - quarters) % 4),))(turned)
    assert torch.equal(turned, intact)


def test_must_have_4_one_turn_keeps_what_lies_in_each_layer_along_its_axis_alone():
    made = method(turns=1)
    intact = numbered(1, 12, 12, 12).patch((0, 0, 0), made.patch)
    for seed in range(12):
        ((axis, _, _),) = made.turn.draw(made.patch, generator(seed)).turns
        turned = made.turn(intact, generator(seed))
        for other in range(3):
            kept = [
                torch.equal(one.flatten().sort().values, two.flatten().sort().values)
                for one, two in zip(
                    turned.split(3, other + 1), intact.split(3, other + 1), strict=True
                )
            ]
            assert all(kept) == (other == axis)


def test_must_have_5_contents_turn_with_their_cube():
    image = torch.arange(64).view(1, 4, 4, 4)
    turned = LayerPlan(2, (LayerTurn(0, 0, 1),))(image)
    assert turned[0, 0, 0].tolist() == [3, 7, 11, 15]
    assert turned[0, 2, 0].tolist() == [32, 33, 34, 35]
    marked = torch.zeros(1, 4, 4, 4)
    marked[0, 0, 0, 1] = 1  # the corner of the first cube that looks along the last axis
    there = LayerPlan(2, (LayerTurn(0, 0, 1),))(marked).nonzero().tolist()
    assert there == [[0, 0, 2, 0]], "another cube, and in it the corner that looks the other way"


def test_worked_example_a():
    image = torch.arange(8).view(1, 2, 2, 2)
    first = LayerPlan(1, (LayerTurn(0, 0, 1),))(image)
    assert flat(first) == [1, 3, 0, 2, 4, 5, 6, 7]
    assert flat(LayerPlan(1, (LayerTurn(2, 1, 2),))(first)) == [1, 7, 0, 5, 4, 2, 6, 3]


def test_must_have_6_whole_rounds():
    image = torch.arange(216).view(1, 6, 6, 6)
    assert torch.equal(LayerPlan(3, (LayerTurn(1, 0, 2),) * 2)(image), image)
    assert torch.equal(LayerPlan(3, (LayerTurn(2, 1, 1),) * 4)(image), image)


def test_must_have_7_all_channels_are_turned_alike():
    made = method(channels=3)
    one = torch.rand(1, 14, 15, 12)
    turned, intact = made.views(held(torch.cat([one, one, one + 1])), generator(1))
    assert torch.equal(turned[0], turned[1])
    assert torch.equal(turned[0] + 1, turned[2])
    assert not torch.equal(turned, intact)


def test_must_have_8_unequal_edges_turn_by_halves_and_unfitting_ones_are_refused():
    drawn = [
        turn
        for seed in range(40)
        for turn in LayerTurns(3).draw((12, 15, 12), generator(seed)).turns
    ]
    assert {turn.quarters for turn in drawn if turn.axis == 1} == {1, 2, 3}
    assert {turn.quarters for turn in drawn if turn.axis != 1} == {2}
    made = method(patch_size=(12, 15, 12))
    assert made.notes() == ()
    assert made.views(numbered(1, 16, 16, 16), generator(0)).turned.shape == (1, 12, 15, 12)
    assert "halves alone" in method(patch_size=(12, 15, 18)).notes()[0]
    with pytest.raises(OptionError, match="do not fill a patch of 12 x 14 x 12"):
        method(patch_size=(12, 14, 12))


def test_must_have_9_each_update_moves_its_own_network_alone():
    made, batch = method(critic_lr=1e-2), batch_of(method())
    before = {name: value.clone() for name, value in made.state_dict().items()}
    after: dict[str, dict[str, torch.Tensor]] = {}

    gradients: list[list[torch.Tensor]] = []

    def look(of: str) -> None:
        after[of] = {name: value.clone() for name, value in made.state_dict().items()}
        gradients.append([each.grad.clone() for each in made.critic.parameters()])

    assert perform(made, batch, look) == ["critic", "generator"]
    first = {n for n in before if not torch.equal(before[n], after["critic"][n])}
    then = {n for n in before if not torch.equal(after["critic"][n], after["generator"][n])}
    assert first
    assert then
    assert all(name.startswith("critic.") for name in first)
    assert all(name.startswith(("encoder.", "decoder.")) for name in then)
    assert all(map(torch.equal, *gradients)), "the generator's update computes none for the critic"


def test_must_have_10_without_the_adversarial_term_there_is_no_critic():
    made = method(adversarial=0.0)
    assert not hasattr(made, "critic")
    (phase,) = made.phases()
    batch = batch_of(made)
    (update,) = phase.step(batch)
    expected = 10 * (made.restore(batch.turned) - batch.intact).square().mean()
    assert update.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert perform(made, batch) == ["main"]
    assert {"mse", "histogram"} <= made.score(batch).keys()


def test_must_have_11_the_target_is_the_untouched_patch():
    made = method()
    record = numbered(1, 16, 13, 12)
    turned, intact = made.views(record, generator(2))
    place = (record.patch((0, 0, 0), record.space)[0] == intact[0, 0, 0, 0]).nonzero()[0].tolist()
    assert torch.equal(intact, record.patch(place, made.patch))
    turned.zero_()
    assert torch.equal(intact, record.patch(place, made.patch))
    goal = torch.rand(2, 1, 12, 12, 12)
    made.restore = lambda image: image
    *_, update = made.step(Sample(goal, goal))
    assert float(update.shows["reconstruction"].detach()) == 0, "and no other"


def test_must_have_12_encoder_and_decoder_are_carried_and_the_last_layer_alone_is_new(tmp_path):
    write_patients(tmp_path / "scans", patients=4, shape=(14, 14, 14))
    done = pretrain(
        "rubiks-cube-volume-wise", tmp_path / "scans", tmp_path / "run", steps=2, epochs=2,
        cache=tmp_path / "cache", **SMALL, **QUIET,
    )  # fmt: skip
    tensors, metadata = read_weights(done.encoder)
    assert {name.partition(".")[0] for name in tensors} == {"encoder", "decoder"}
    torch.manual_seed(1)
    options = FinetuneOptions(encoder="resenc-tiny", patch_size=(12, 12, 12))
    fresh = [build_encoder("resenc-tiny", dims=3) for _ in range(2)]
    segment = Segment(options, fresh[0], Labels((0, 1, 2), ("background", "left", "right")))
    classify = Classify(options, fresh[1], ("a", "b"))
    for task in (segment, classify):
        given = Given(
            options=options, encoder=task.encoder, records=(), train=(), tensors=tensors,
            metadata=metadata,
        )  # fmt: skip
        taken = task.load(given, [])
        names = [f"decoder.{n}" for n in segment.decoder.state_dict() if not n.startswith("head.")]
        assert taken == (set(names) if task is segment else set())
    for name, value in segment.decoder.state_dict().items():
        assert torch.equal(value, tensors[f"decoder.{name}"]) != name.startswith("head.")


def test_must_have_13_the_distance_of_histograms_is_logged(tmp_path):
    write_patients(tmp_path / "scans", patients=4, shape=(14, 14, 14))
    pretrain(
        "rubiks-cube-volume-wise", tmp_path / "scans", tmp_path / "run", steps=4, epochs=2,
        cache=tmp_path / "cache", samples_per_scan=2, log_every=1, score_every=1, **SMALL, **QUIET,
    )  # fmt: skip
    rows = RunFolder(tmp_path / "run").read_log()
    scores = [row["held_out"] for row in rows if "held_out" in row]
    assert all(0 < each["histogram"] < 1 for each in scores)
    assert all(0 < each["mean"] < each["identity"] for each in scores), "the mean was never made"
    steps = [row for row in rows if "total" in row]
    assert [row["phase"] for row in steps] == ["restoration"] * 2 + ["adversarial"] * 2
    assert {"loss critic", "loss generator", "reconstruction", "convincing"} <= steps[-1].keys()
    assert [row.get("lr") for row in steps[:2]] == [1e-3, 1e-3]
    assert steps[2]["lr critic"] == pytest.approx(1e-4)


def test_worked_example_c_the_generators_loss():
    made = method()
    turned = torch.tensor([0.2, 0.8]).view(1, 1, 2, 1, 1)
    intact = torch.tensor([0.0, 1.0]).view(1, 1, 2, 1, 1)
    made.restore = lambda image: image
    made.critic = nn.Identity()
    assert float(made.reconstruction(turned, intact)) == pytest.approx(0.04)
    quarter = torch.tensor(math.log(0.25 / 0.75))
    assert float(convince(quarter)) == pytest.approx(1.386294, abs=1e-6)
    made.critic.forward = lambda image: quarter.expand(1, 1, 1, 1, 1)
    critic, update = made.step(Sample(turned, intact))
    assert float(update.loss) == pytest.approx(1.786294, abs=1e-6)
    assert float(critic.loss) == pytest.approx(-(math.log(0.25) + math.log(0.75)) / 2, abs=1e-6)
    absolute = method(error="absolute")
    assert float(absolute.reconstruction(turned, intact)) == pytest.approx(0.2)


def test_gradients_reach_the_generator_through_the_critic():
    made, batch = method(reconstruction=0.0), batch_of(method())
    perform(made, batch)
    moved = [*made.encoder.parameters(), *made.decoder.parameters()]
    assert all(each.grad is not None for each in moved)
    assert any(float(each.grad.abs().sum()) > 0 for each in moved)


def test_a_critic_judges_each_volume_by_itself():
    made, batch = method(), batch_of(method(), 4)
    together = made.critic(batch.intact)
    for at in range(4):
        alone = made.critic(batch.intact[at : at + 1])
        torch.testing.assert_close(alone[0], together[at], rtol=1e-4, atol=1e-5)
    assert together[0].numel() > 1, "patch by patch"


def test_the_default_networks():
    options = Options()
    assert options.patch_size == (56, 56, 56)
    torch.manual_seed(0)
    made = RubiksCubeVolumeWise(options, build_encoder("unet", dims=3, in_channels=1))
    widths = [part.out_channels for part in made.critic.modules() if isinstance(part, nn.Conv3d)]
    assert widths == [32, 64, 128, 256, 1]
    assert len(made.turn.draw(made.patch, generator(0)).turns) == 8
    assert made.encoder.channels == (64, 128, 256, 512)


def test_the_critic_joins_after_so_many_epochs():
    def stages(**options):
        phases = method(**options).phases()
        return [(phase.name, phase.share, sorted(phase.trains)) for phase in phases]

    both = ["critic", "generator"]
    assert stages() == [("restoration", 1, ["main"]), ("adversarial", 199, both)]
    assert stages(critic_after=5, epochs=8) == [
        ("restoration", 5, ["main"]),
        ("adversarial", 3, both),
    ]
    assert stages(critic_after=0) == stages(reconstruction=0.0) == [("adversarial", 200, both)]
    assert stages(epochs=1) == [("adversarial", 1, both)]
    assert stages(adversarial=0.0) == [("restoration", 1, ["main"])]
    for options in ({}, {"critic_after": 0}, {"adversarial": 0.0}):
        first, *later = method(**options).phases()
        assert first.before is not None
        assert all(phase.before is None for phase in later)


def test_optimisers():
    made = method()
    layers = [nn.Linear(1, 1)]
    for name, lr, betas, factors in (
        ("critic", 1e-4, (0.5, 0.999), [1.0, 0.5, 0.0]),
        ("generator", 1e-3, (0.9, 0.999), [1.0, 0.5, 0.0]),
        ("main", 1e-3, (0.9, 0.999), [1.0, 1.0, 1.0]),
    ):
        adam, schedule = made.optimiser(name, layers)
        assert isinstance(adam, torch.optim.Adam)
        assert (adam.defaults["lr"], adam.defaults["betas"]) == (lr, betas)
        assert [round(schedule(epoch, 10), 3) for epoch in (0, 5, 10)] == factors
    _, schedule = method(adversarial=0.0).optimiser("main", layers)
    assert schedule(5, 10) == pytest.approx(0.5), "alone to the end"


def test_the_mean_patch_is_that_of_patches_drawn_as_for_training():
    made = method()
    scans = [held(torch.full((1, 12, 12, 12), float(level))) for level in range(3)]
    made.average(scans)
    assert torch.equal(made.mean, torch.ones(1, 12, 12, 12))
    many = [held(torch.full((1, 12, 12, 12), float(level))) for level in range(130)]
    made.average(many)
    assert made.mean.unique().tolist() == [pytest.approx(64.5)], "every third scan, 44 of them"
    assert "mean" in made.state_dict(), "kept for a run that goes on"


def test_score_by_hand():
    made = method(patch_size=(3, 3, 3), critic_layers=1, adversarial=0.0)
    intact = torch.zeros(1, 1, 3, 3, 3)
    intact[0, 0, 0, 0, 0] = 1
    turned = intact.flip(-1)
    made.mean.fill_(0.25)
    made.restore = lambda image: torch.full_like(image, 0.5)
    scores = {name: float(value) for name, value in made.score(Sample(turned, intact)).items()}
    assert scores == pytest.approx(
        {
            "mse": 0.25,
            "mse_moved": 0.25,
            "identity": 2 / 27,
            "identity_moved": 1.0,
            "mean": (0.75**2 + 26 * 0.25**2) / 27,
            "moved": 2 / 27,
            "histogram": 0.5,
        },
        abs=1e-6,
    )
    untouched = made.score(Sample(intact, intact))
    assert float(untouched["identity"]) == float(untouched["mse_moved"]) == 0


def test_preview_shows_the_task():
    made, batch = method(), batch_of(method())
    shown = made.preview(batch)
    assert list(shown) == ["turned", "restored", "intact", "difference"]
    assert all(0 <= each.min() <= each.max() <= 1 for each in shown.values())
    assert len({each.shape for each in shown.values()}) == 1
    assert torch.equal(shown["intact"], three_planes(batch.intact))
    assert torch.equal(shown["turned"], three_planes(batch.turned, 3)), (
        "with the sub-cubes' borders"
    )
    made.restore = lambda turned: batch.intact
    assert made.preview(batch)["difference"].max() == 0


def test_intensities():
    soft_tissue = IntensityRule(ct=(-100.0, 240.0))
    assert RubiksCubeVolumeWise.intensity(Options()) == soft_tissue
    lung = Options(ct_window=(-1000.0, 400.0))
    assert RubiksCubeVolumeWise.intensity(lung) == IntensityRule(ct=(-1000.0, 400.0))
    restored = method().restore(torch.rand(1, 1, 12, 12, 12) * 100 - 50)
    assert 0 <= restored.min() <= restored.max() <= 1


def test_the_patch_is_flipped_before_its_layers_turn():
    made = method(p_flip=0.6, turns=0)
    array = numbered(1, 12, 12, 12).patch((0, 0, 0), (12, 12, 12))
    flips = [array.flip(axes) for axes in ((), (1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3))]
    seen = set()
    for seed in range(40):
        turned, intact = made.views(held(array), generator(seed))
        (which,) = (at for at, each in enumerate(flips) if torch.equal(each, intact))
        assert torch.equal(turned, intact)
        seen.add(which)
    assert len(seen) > 3
    assert torch.equal(method().views(held(array), generator(0)).intact, array)


@pytest.mark.parametrize(
    ("options", "fact", "remedy"),
    [
        ({"side": 5}, "do not fill a patch of 12 x 12 x 12", "--side 4"),
        ({"patch_size": (13, 12, 12)}, "sub-cubes of 3", "--patch-size 12 12 12"),
        ({"patch_size": (12, 12)}, "2 edges", "--patch-size 12 12 12"),
        ({"critic_layers": 3}, "critic of 3 layers", "--critic-layers 2"),
        (
            {"encoder": "unet", "patch_size": (60, 60, 60)},
            "multiples of 8",
            "--patch-size 64 64 64",
        ),
        ({"reconstruction": 0.0, "adversarial": 0.0}, "both 0", "--reconstruction 10"),
        ({"ct_window": (240.0, -100.0)}, "from 240.0 to -100.0", "--ct-window -100 240"),
        ({"error": "cubed"}, "not one of squared, absolute", ""),
        ({"turns": -1}, "--turns is -1", "at least 0"),
        ({"side": 0}, "--side is 0", "at least 1"),
    ],
)
def test_wrong_options_are_named(options, fact, remedy):
    with pytest.raises(OptionError, match=fact) as fault:
        method(**options)
    assert remedy in fault.value.remedy


def test_pictures_are_refused(tmp_path: Path):
    write_patients(tmp_path / "scans", patients=3, shape=(40, 40))
    with pytest.raises(DataError, match="2D picture"):
        pretrain(
            "rubiks-cube-volume-wise", tmp_path / "scans", tmp_path / "run",
            cache=tmp_path / "cache", **SMALL, **QUIET,
        )  # fmt: skip
    assert not list((tmp_path / "run").glob("encoder*"))


@pytest.mark.parametrize(("encoder", "edge"), [("unet", 16), ("resnet18", 32)])
def test_any_encoder_serves(encoder: str, edge: int):
    made = method(channels=2, encoder=encoder, patch_size=(edge,) * 3, side=8)
    updates = made.step(batch_of(made, channels=2))
    for update in updates:
        update.loss.backward()
        assert update.loss.isfinite()
    assert all(each.grad is not None for each in made.decoder.parameters())


def learn(scans: Path, folder: Path, *, steps: int, copying: bool = False) -> dict[str, float]:
    """Pretrain a small network and score held-out subjects; with `copying`, it is never shown a turned patch."""
    views = RubiksCubeVolumeWise.views

    def untouched(self: RubiksCubeVolumeWise, record, rng) -> Sample:
        sample = views(self, record, rng)
        return Sample(sample.intact, sample.intact) if self.training else sample

    values = {
        "encoder": "resenc-tiny",
        "patch_size": (24, 24, 24),
        "side": 6,
        "batch_size": 4,
        "samples_per_scan": 2,
        "lr": 2e-3,
        "critic_lr": 2e-4,
        "adversarial": 0.1,
        "critic_width": 8,
        "critic_layers": 2,
        "steps": steps,
        "epochs": 20,
        "spacing": (1.5, 1.5, 1.5),
    }
    with pytest.MonkeyPatch.context() as patch:
        if copying:
            patch.setattr(RubiksCubeVolumeWise, "views", untouched)
        done = pretrain(
            "rubiks-cube-volume-wise", scans, folder / "run", cache=folder / "cache",
            **{**QUIET, "held_out_batches": 8}, score_every=steps, **values,
        )  # fmt: skip
    score = done.result.score
    rows = [
        row["loss critic"] for row in RunFolder(folder / "run").read_log() if "loss critic" in row
    ]
    return {
        **{name: score[name] for name in ("mse", "identity", "mean", "histogram")},
        "ratio_moved": score["mse_moved"] / score["identity_moved"],
        "critic": sum(rows[-5:]) / len(rows[-5:]),
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_on_real_scans(shared_data: Path, tmp_path: Path, proof):
    """On held-out hippocampus MRI: better than copying and than the mean patch, and the critic has neither won nor lost."""
    scores = learn(hippocampi(shared_data, tmp_path) / "images", tmp_path, steps=STEPS)
    proof("rubiks-cube-volume-wise", data="hippocampus-mri", **scores)
    assert scores["mse"] < 0.65 * scores["identity"]
    assert scores["mse"] < 0.9 * scores["mean"]
    assert 0.2 < scores["critic"] < 0.8


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_scale_proof_fails_where_nothing_is_turned(shared_data: Path, tmp_path: Path, proof):
    """A network that never saw a turned patch copies."""
    scores = learn(
        hippocampi(shared_data, tmp_path) / "images", tmp_path, steps=STEPS // 2, copying=True
    )
    proof("rubiks-cube-volume-wise", data="hippocampus-mri, nothing turned", **scores)
    assert scores["mse"] > 0.8 * scores["identity"]
    assert scores["mse"] > scores["mean"]
