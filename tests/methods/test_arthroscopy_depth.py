"""Every must-have of depth beside segmentation: sampler, losses, views, stages, and what is refused."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from unlabeled.data.index import index_scans
from unlabeled.demo.stereo import scene, write_stereo
from unlabeled.errors import DataError, OptionError, RunError
from unlabeled.losses.photometric import (
    edge_aware_smoothness,
    photometric_error,
    structural_distance,
)
from unlabeled.losses.segmentation import dice_of_classes
from unlabeled.methods.arthroscopy_depth import (
    ArthroscopyDepth,
    Labelled,
    Options,
    Pair,
    read_views,
    visit,
)
from unlabeled.nn.disparity import shift_columns
from unlabeled.nn.encoders import build_encoder
from unlabeled.rng import generator
from unlabeled.training.pretrain import open_store, pretrain
from unlabeled.training.selection import split_records
from unlabeled.transfer.products import load_method
from unlabeled.transforms.stereo import SharedColour, StereoFlip

SMALL = {"encoder": "resenc-tiny", "patch_size": (32, 32), "batch_size": 2}
QUIET = {"quiet": True, "accelerator": "cpu"}


def method(seed: int = 0, **options) -> ArthroscopyDepth:
    torch.manual_seed(seed)
    made = Options(**{**SMALL, "classes": 2, **options})
    return ArthroscopyDepth(made, build_encoder(made.encoder, dims=2, in_channels=3))


def records(folder: Path, options: Options, **scans):
    store = open_store(ArthroscopyDepth, options, folder / "cache")
    index = index_scans(write_stereo(folder / "scans", **scans), cache=folder / "cache")
    return store.prepare(index.sources, rule=ArthroscopyDepth.intensity(options)).records


def drawn(number: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    made = scene(number)
    left, right = (torch.from_numpy(each).permute(2, 0, 1)[None] / 255 for each in made[:2])
    return left, right, torch.from_numpy(made.disparity).float()[None, None]


def pair_of(rows: int = 32, columns: int = 32, count: int = 2) -> Pair:
    return Pair(*torch.rand(2, count, 3, rows, columns, generator=generator(1)))


def test_losses_equal_the_published_ones(golden: Path):
    found = golden / "arthroscopy-depth" / "stereo_losses_scale0.npz"
    if not found.exists():
        pytest.skip("no golden arrays of arthroscopy-depth")
    g = {name: torch.from_numpy(np.asarray(array)) for name, array in np.load(found).items()}
    left, right = (g[name].permute(0, 3, 1, 2) for name in ("left", "right"))
    near, far = g["disp_left"][:, None], g["disp_right"][:, None]
    close = {"atol": 1e-4, "rtol": 0}
    torch.testing.assert_close(
        shift_columns(right, -near), g["left_est"].permute(0, 3, 1, 2), **close
    )
    torch.testing.assert_close(
        shift_columns(left, far), g["right_est"].permute(0, 3, 1, 2), **close
    )
    torch.testing.assert_close(shift_columns(far, -near)[:, 0], g["right_to_left_disp"], **close)
    torch.testing.assert_close(shift_columns(near, far)[:, 0], g["left_to_right_disp"], **close)
    distance = structural_distance(shift_columns(right, -near), left)
    torch.testing.assert_close(distance, g["ssim_map_left"].permute(0, 3, 1, 2), **close)
    terms = method().depth_loss(Pair(left, right), [torch.cat([near, far], dim=1)])
    assert float(terms["photometric"]) == pytest.approx(float(g["image_loss"]), abs=1e-4)
    smooth = float(g["smooth_left"] + g["smooth_right"])
    assert float(terms["smoothness"]) == pytest.approx(smooth, abs=1e-4)
    assert float(terms["consistency"]) == pytest.approx(float(g["lr_loss"]), abs=1e-4)
    assert float(method().weigh(terms)) == pytest.approx(float(g["total"]), abs=1e-4)


def test_worked_examples_of_sampler_and_losses():
    row = torch.arange(1.0, 9.0).expand(1, 1, 2, 8)
    for offset, expected in (
        (1 / 8, [2, 3, 4, 5, 6, 7, 8, 0]),
        (-1.5 / 8, [0, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5]),
    ):
        read = shift_columns(row, torch.full((1, 1, 2, 8), offset))
        assert read[0, 0, 0].tolist() == pytest.approx(expected, abs=1e-5)
    one, other = torch.full((1, 3, 3, 3), 0.5), torch.full((1, 3, 3, 3), 0.3)
    assert float(photometric_error(one, other)) == pytest.approx(0.079985, abs=1e-5)
    image = torch.tensor([0.0, 1.0, 1.0]).expand(1, 3, 2, 3)
    disparity = torch.tensor([0.1, 0.2, 0.2]).expand(1, 1, 2, 3)
    assert float(edge_aware_smoothness(disparity, image)) == pytest.approx(0.018394, abs=1e-6)


def test_the_true_disparity_rebuilds_the_left_view_and_the_wrong_sign_does_not():
    left, right, disparity = drawn()
    inner = (..., slice(8, -8))
    error = (shift_columns(right, -disparity) - left)[inner].abs().mean()
    assert error < 2 / 255  # levels are rounded twice
    assert (shift_columns(right, disparity) - left)[inner].abs().mean() > 10 * error


def test_zero_disparity_is_the_identity():
    left, _, disparity = drawn()
    torch.testing.assert_close(shift_columns(left, 0 * disparity), left, atol=1e-5, rtol=0)


def test_without_disparity_a_row_is_read_where_it_lies_at_every_size():
    for columns in (2, 5, 33):
        image = torch.rand(1, 2, 4, columns, generator=generator(3))
        still = torch.zeros(1, 1, 4, columns)
        torch.testing.assert_close(shift_columns(image, still), image, atol=1e-5, rtol=0)


def test_disparities_of_both_eyes_at_four_scales_lie_between_zero_and_the_most():
    small = method(most=0.2)
    found = small.disparity(small.decode(pair_of(32, 48).left))
    assert [tuple(each.shape) for each in found] == [
        (2, 2, 32 // 2**s, 48 // 2**s) for s in range(4)
    ]
    assert all(bool((each > 0).all() and (each < 0.2).all()) for each in found)


def test_the_right_view_never_enters_the_network_and_single_frames_serve():
    small, batch, seen = method().eval(), pair_of(), []
    small.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    list(small.step(batch))
    small.name_classes(batch.left)
    small.score(batch)
    assert all(torch.equal(each, batch.left) for each in seen)
    assert len(seen) == 3
    assert small.encoder.in_channels == 3


def test_equal_views_without_disparity_cost_nothing():
    left = pair_of().left
    still = [torch.zeros(2, 2, 32 // 2**s, 32 // 2**s) for s in range(4)]
    terms = method().depth_loss(Pair(left, left), still)
    assert all(float(term) == pytest.approx(0, abs=1e-4) for term in terms.values())


def test_a_flip_exchanges_the_views_and_keeps_disparities_positive():
    left, right, disparity = drawn()
    flipped = StereoFlip(1.0)(torch.cat([left, right], dim=1)[0], generator(0))
    assert torch.equal(flipped[:3], right[0].flip(-1))
    assert torch.equal(flipped[3:], left[0].flip(-1))
    inner = (..., slice(10, -10))
    rebuilt = shift_columns(flipped[None, 3:], -disparity.flip(-1))
    unmoved = (flipped[None, 3:] - flipped[None, :3])[inner].abs().mean()
    assert (rebuilt - flipped[None, :3])[inner].abs().mean() < unmoved


def test_both_views_get_the_same_colours():
    left = pair_of().left[0]
    for place in range(20):
        changed = SharedColour(1.0)(torch.cat([left, left]), generator(0, place))
        assert torch.equal(changed[:3], changed[3:])
        alone = SharedColour(1.0)(left, generator(0, place))
        assert torch.equal(alone, changed[:3])
        assert float(changed.min()) >= 0
        assert float(changed.max()) <= 1
        assert not torch.equal(changed[:3], left)


def test_a_constant_disparity_is_consistent_within_and_smooth():
    constant = torch.full((1, 1, 8, 40), 0.1)
    told = shift_columns(constant, -constant)
    assert (told - constant)[..., 5:].abs().max() < 1e-6
    assert float(edge_aware_smoothness(constant, torch.rand(1, 3, 8, 40))) == 0


def test_a_constant_disparity_costs_consistency_at_the_border_alone():
    """A tenth of 40 columns is beyond the other picture on either side, and reads 0."""
    image = pair_of(32, 40).left
    terms = method().depth_loss(Pair(image, image), [torch.full((2, 2, 32, 40), 0.1)])
    assert float(terms["consistency"]) == pytest.approx(2 * 0.1 * 4 / 40, abs=1e-4)
    assert float(terms["smoothness"]) == 0


def test_every_scale_and_eye_adds_its_share_and_smoothness_halves_with_each():
    small, pair = method(), pair_of(32, 48)
    seen = [torch.rand(2, 2, 32 // 2**s, 48 // 2**s, generator=generator(s)) for s in range(4)]
    found = small.depth_loss(pair, [0.1 * each for each in seen])
    wanted = dict.fromkeys(found, 0.0)
    for scale, both in enumerate(seen):
        views = Pair(*(torch.nn.functional.avg_pool2d(each, 2**scale) for each in pair))
        alone = small.depth_loss(views, [0.1 * both])
        wanted["photometric"] += float(alone["photometric"])
        wanted["smoothness"] += float(alone["smoothness"]) / 2**scale
        wanted["consistency"] += float(alone["consistency"])
    for name, term in found.items():
        assert float(term) == pytest.approx(wanted[name], rel=1e-5)
    left_alone, right_alone = (
        small.depth_loss(pair, [torch.stack(eyes, 1)])["smoothness"]
        for eyes in (
            (seen[0][:, 0], torch.zeros(2, 32, 48)),
            (torch.zeros(2, 32, 48), seen[0][:, 1]),
        )
    )
    both = small.depth_loss(pair, seen[:1])["smoothness"]
    assert float(left_alone) > 0
    assert float(right_alone) > 0
    assert float(left_alone + right_alone) == pytest.approx(float(both), rel=1e-5)


def test_terms_are_weighed_as_the_options_say():
    terms = {"photometric": 1.0, "smoothness": 10.0, "consistency": 100.0}
    made = {name: torch.tensor(term) for name, term in terms.items()}
    assert float(method().weigh(made)) == pytest.approx(1 + 0.1 * 10 + 100)
    other = method(smoothness_weight=0.5, consistency_weight=0.25)
    assert float(other.weigh(made)) == pytest.approx(1 + 5 + 25)
    pair = pair_of()
    masks = torch.zeros(2, 32, 32, dtype=torch.long)
    batch = {"labelled": Labelled(pair.left, masks), "pairs": pair}
    (update,) = method(depth_weight=3.0).segment_with_depth(batch)
    depth = method().weigh({name: update.shows[name] for name in terms})
    whole = update.shows["segmentation"] + 3 * depth
    assert update.loss.item() == pytest.approx(whole.item())


def test_the_rate_is_halved_after_three_and_four_fifths():
    adam, schedule = method().optimiser("depth", [method().disparity])
    assert (adam.param_groups[0]["lr"], adam.param_groups[0]["betas"]) == (1e-4, (0.9, 0.999))
    assert [schedule(at, 10) for at in (0, 5.9, 6, 7.9, 8, 9.9)] == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_an_edge_of_disparity_costs_less_where_the_image_has_one():
    disparity = torch.zeros(1, 1, 8, 8)
    disparity[..., 4:] = 0.1
    costs = []
    for at in (4, 6):
        image = torch.zeros(1, 3, 8, 8)
        image[..., at:] = 1
        costs.append(float(edge_aware_smoothness(disparity, image)))
    assert costs[0] == pytest.approx(costs[1] / math.e, rel=1e-4)


def test_depth_does_not_reach_the_classes_nor_segmentation_the_disparities():
    small, pair = method(), pair_of()
    small.weigh(small.depth_loss(pair, small.disparity(small.decode(pair.left)))).backward()
    assert any(float(p.grad.abs().sum()) > 0 for p in small.encoder.parameters())
    assert all(p.grad is None for p in small.segment.parameters())
    small.zero_grad(set_to_none=True)
    masks = torch.randint(2, (2, 32, 32), generator=generator(2))
    (update,) = method(depth_weight=0.0).segment_with_depth(Labelled(pair.left, masks))
    assert set(update.shows) == {"segmentation"}
    torch.nn.functional.cross_entropy(small.name_classes(pair.left), masks).backward()
    assert any(float(p.grad.abs().sum()) > 0 for p in small.encoder.parameters())
    assert all(p.grad is None for p in small.disparity.parameters())
    (update,) = small.segment_with_depth({"labelled": Labelled(pair.left, masks), "pairs": pair})
    assert set(update.shows) == {"segmentation", "photometric", "smoothness", "consistency"}


def test_the_second_stage_starts_where_the_first_ended_and_its_head_is_new(tmp_path: Path):
    small = method()
    first, second = small.phases()
    assert small.segment not in first.trains["depth"]
    assert small.segment in second.trains["joint"]
    assert set(first.trains["depth"]) < set(second.trains["joint"])
    assert first.before is first.after is second.before is None


def test_a_run_passes_the_weights_of_the_first_stage_on_as_they_are(tmp_path: Path):
    """Seen where either stage takes its first step: what the first has trained enters the second, its head is fresh."""
    manifest = write_stereo(tmp_path / "scans", objects=4, patients=4, shape=(32, 40))
    states: dict[str, list[dict[str, torch.Tensor]]] = {"step": [], "segment_with_depth": []}
    saved: list[dict[str, torch.Tensor]] = []
    with pytest.MonkeyPatch.context() as patch:
        for name, seen in states.items():
            own = getattr(ArthroscopyDepth, name)

            def spied(self, batch, own=own, seen=seen):
                seen.append({key: value.clone() for key, value in self.state_dict().items()})
                yield from own(self, batch)
                saved.append({key: value.clone() for key, value in self.state_dict().items()})

            patch.setattr(ArthroscopyDepth, name, spied)
        values = {**SMALL, **QUIET, "steps": 6, "epochs": 8, "cache": tmp_path / "cache"}
        pretrain("arthroscopy-depth", manifest, tmp_path / "run", **values)
    before, (after, *_) = states["step"], states["segment_with_depth"]
    ended = saved[len(before) - 1]
    assert len(before) == 3
    assert all(torch.equal(after[name], ended[name]) for name in after)
    for part in ("encoder.", "decoder.", "disparity."):
        own = [name for name in ended if name.startswith(part)]
        assert any(not torch.equal(ended[name], before[0][name]) for name in own)
    heads = [name for name in ended if name.startswith("segment.")]
    assert heads
    assert all(torch.equal(ended[name], before[0][name]) for name in heads)
    last = saved[-1]
    assert all(not torch.equal(last[name], ended[name]) for name in heads)


def test_streams_take_objects_first_then_patients(tmp_path: Path):
    own = Options(**SMALL, p_flip=0.0, p_colour=0.0)
    found = records(tmp_path, own, objects=2, patients=2)
    own = ArthroscopyDepth.suit(own, found)
    assert own.classes == 2
    assert ArthroscopyDepth.suit(own, found) == own
    small = method(p_flip=0.0, p_colour=0.0)
    (pairs,) = small.phases()[0].feeds.values()
    feeds = small.phases()[1].feeds
    assert {visit(r) for r in pairs.group(list(filter(pairs.accepts, found)))} == {"objects"}
    assert {visit(r) for r in feeds["pairs"].group(list(filter(pairs.accepts, found)))} == {"knee"}
    pair = small.views(next(filter(pairs.accepts, found)), generator(0))
    assert pair.left.shape == pair.right.shape == (3, 32, 32)
    labelled = small.labelled(next(filter(feeds["labelled"].accepts, found)), generator(0))
    assert labelled.mask.shape == (32, 32)
    inside = labelled.mask > 0
    assert labelled.frame[:, inside].mean() > labelled.frame[:, ~inside].mean()


def test_a_frame_is_mirrored_with_its_mask(tmp_path: Path):
    own = Options(**SMALL, p_flip=1.0, p_colour=0.0)
    found = records(tmp_path, own, objects=0, patients=1, shape=(32, 40))
    (labelled,) = [r for r in found if r.mask is not None]
    still, mirrored = (
        method(p_flip=p, p_colour=0.0).labelled(labelled, generator(0)) for p in (0.0, 1.0)
    )
    assert torch.equal(mirrored.frame, still.frame.flip(-1))
    assert torch.equal(mirrored.mask, still.mask.flip(-1))
    assert not torch.equal(still.mask, still.mask.flip(-1))
    (pair,) = [r for r in found if r.mask is None]
    straight, exchanged = (
        method(p_flip=p, p_colour=0.0).views(pair, generator(0)) for p in (0.0, 1.0)
    )
    assert torch.equal(exchanged.left, straight.right.flip(-1))
    assert torch.equal(exchanged.right, straight.left.flip(-1))


def rewritten(manifest: Path, change) -> Path:
    """Change the rows of a manifest: `change` gets one and gives it, or None to leave it out."""
    with manifest.open(newline="") as file:
        rows = [each for each in map(change, csv.DictReader(file)) if each is not None]
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return manifest


@pytest.mark.parametrize(
    ("held", "scores"),
    [
        ("pairs", {"error", "unmoved"}),
        ("masks", {"dice"}),
        ("both", {"error", "unmoved", "dice"}),
        ("objects", {"error", "unmoved"}),
        ("bare", set()),
    ],
)
def test_held_out_subjects_that_lack_a_stream_are_scored_on_the_other(
    tmp_path: Path, held: str, scores: set[str]
):
    """Each subject held out shows pairs, frames with masks, both, objects, or frames alone: no score falls out with another."""

    def change(row):
        row["split"] = "val" if row["subject"] in ("patient3", "object3") else "train"
        out = row["split"] == "val"
        if out and (row["subject"] == "object3") != (held == "objects"):
            return None
        if (out and held == "pairs" and row["mask"]) or (
            out and held in ("masks", "bare") and not row["mask"]
        ):
            return None
        if out and held == "bare":
            row["mask"] = ""
        return row

    manifest = rewritten(write_stereo(tmp_path / "s", shape=(32, 40)), change)
    values = {**SMALL, **QUIET, "steps": 2, "cache": tmp_path / "c", "held_out_batches": 1}
    done = pretrain("arthroscopy-depth", manifest, tmp_path / "run", score_every=1, **values)
    assert done.result.steps == 2
    assert set(done.result.score) == scores
    assert all(math.isfinite(value) for value in done.result.score.values())
    drawn = {path.name.split("-")[1] for path in (tmp_path / "run" / "previews").glob("*.png")}
    assert ("joint" in drawn) == bool(scores)


def test_scans_to_learn_from_that_lack_a_stream_are_found_out_before_the_first_stage(
    tmp_path: Path,
):
    """Masks of test frames alone make no second stage; where --classes asks for one, it is refused, as are pairs held out."""

    def masked_tests(row):
        row["split"] = "test" if row["subject"] in ("patient2", "patient3") else "train"
        return row if row["split"] == "test" or not row["mask"] else None

    values = {**SMALL, **QUIET, "steps": 2, "cache": tmp_path / "c"}
    manifest = rewritten(write_stereo(tmp_path / "a", shape=(32, 40)), masked_tests)
    done = pretrain("arthroscopy-depth", manifest, tmp_path / "run", **values)
    assert done.result.steps == 2
    assert not any(
        name.startswith("segment.") for name in load_method(done.out).method.state_dict()
    )
    with pytest.raises(OptionError, match="--classes is 2, and no scan to learn from has a mask"):
        pretrain("arthroscopy-depth", manifest, tmp_path / "r2", classes=2, **values)

    def paired_tests(row):
        row["split"] = "train" if row["mask"] else "val"
        row["subject"] += row["split"]
        return row

    manifest = rewritten(write_stereo(tmp_path / "b", shape=(32, 40)), paired_tests)
    with pytest.raises(DataError, match="no scan to learn from has a right view"):
        pretrain("arthroscopy-depth", manifest, tmp_path / "r3", **values)

    def one_patient(row):
        return row if row["subject"] == "patient0" or not row["mask"] else None

    manifest = rewritten(write_stereo(tmp_path / "d", shape=(32, 40)), one_patient)
    found = set()
    for seed in range(40):
        own = ArthroscopyDepth.options_class(**SMALL, seed=seed)
        folder = tmp_path / f"seed{seed}"
        subjects = split_records_of(manifest, own, tmp_path / "c")
        if "patient0" in subjects:
            continue
        with pytest.raises(RunError, match="stream labelled") as refusal:
            pretrain("arthroscopy-depth", manifest, folder, seed=seed, **values)
        assert "`split`" in refusal.value.remedy
        assert not list((folder / "checkpoints").glob("*"))
        found.add(seed)
        break
    assert found, "in one of forty draws the one labelled patient is held out"


def split_records_of(manifest: Path, own: Options, cache: Path) -> set[str]:
    """Name the subjects that a run with these options learns from."""
    store = open_store(ArthroscopyDepth, own, cache)
    sources = index_scans(manifest, cache=cache).sources
    found = store.prepare(sources, rule=ArthroscopyDepth.intensity(own)).records
    return {record.subject for record in split_records(found, own.seed)[0]}


def test_dice_counts_what_is_named_and_what_is_true():
    small, frame = method(classes=3), pair_of().left
    mask = torch.zeros(2, 32, 32, dtype=torch.long)
    mask[:, :16] = 1
    answer = mask.clone()
    small.name_classes = lambda _: torch.nn.functional.one_hot(answer, 3).movedim(-1, 1).float()
    assert float(small.score_joint(Labelled(frame, mask))["dice"]) == 1
    answer[:, 8:16] = 0
    assert float(small.score_joint(Labelled(frame, mask))["dice"]) == pytest.approx(2 / 3)
    answer[0, 31, 31] = 2  # of a structure that is not there
    assert float(small.score_joint(Labelled(frame, mask))["dice"]) == pytest.approx(1 / 3)


def test_previews_show_what_either_stage_learns():
    small, pair = method(classes=3), pair_of()
    mask = torch.randint(3, (2, 32, 32), generator=generator(0))
    shown = small.preview(pair)
    assert list(shown) == ["left", "right", "left from right", "error", "disparity"]
    joint = small.preview_joint({"labelled": Labelled(pair.left, mask), "pairs": pair})
    assert list(joint) == ["frame", "mask", "named", "disparity"]
    assert list(small.preview_joint({"pairs": pair})) == list(shown)
    assert list(small.preview_joint(Labelled(pair.left, mask))) == list(joint)
    for image in (*shown.values(), *joint.values()):
        assert image.shape[2:] == (32, 32)
        assert 0 <= image.min() <= image.max() <= 1
    assert torch.equal(joint["mask"][:, 0], mask / 2)


def test_scores_and_products_are_those_of_the_disparity(tmp_path: Path):
    """A network that knew the true disparity would rebuild the left picture; the product is what it says of a frame."""
    left, right, disparity = drawn()
    small = method().eval()
    small.disparity.forward = lambda features: [torch.cat([disparity, disparity], 1)]
    scores = small.score(Pair(left, right))
    assert float(scores["error"]) < 0.2 * float(scores["unmoved"])
    own = Options(**SMALL)
    made = method().eval()
    for record in records(tmp_path, own, objects=1, patients=1):
        with torch.no_grad():
            product = made.product(record)
            near = made.disparity(made.decode(read_views(record)[None, :3]))[0][0, :1]
        torch.testing.assert_close(product.pictures["disparity"], near / 0.3)
        assert product.values["disparity"] == pytest.approx(float(near.mean()))


def test_data_without_right_views_are_refused_with_what_to_do(tmp_path: Path):
    own = Options(**SMALL)
    found = [r for r in records(tmp_path, own, objects=0, patients=2) if r.mask is not None]
    with pytest.raises(DataError, match="no scan to learn from has a right view"):
        ArthroscopyDepth.suit(own, found)
    alone = Options(**SMALL, depth_first=False, depth_weight=0.0)
    assert ArthroscopyDepth.suit(alone, found).classes == 2
    with pytest.raises(OptionError, match="--patch-size 24 24"):
        Options(patch_size=(16, 32))


def test_a_subject_in_two_splits_is_refused(tmp_path: Path):
    manifest = write_stereo(tmp_path, objects=2, patients=3)
    rewritten(manifest, lambda row: {**row, "split": "" if row["mask"] else "test"})
    with pytest.raises(DataError, match="3 subjects have scans in more than one split"):
        pretrain(
            "arthroscopy-depth",
            manifest,
            tmp_path / "run",
            steps=2,
            cache=tmp_path / "cache",
            **SMALL,
            **QUIET,
        )


def test_a_run_carries_encoder_and_decoder(tmp_path: Path):
    manifest = write_stereo(tmp_path, objects=4, patients=4, shape=(32, 40))
    done = pretrain(
        "arthroscopy-depth",
        manifest,
        tmp_path / "run",
        steps=2,
        cache=tmp_path / "cache",
        **SMALL,
        **QUIET,
    )
    assert {name.split(".")[0] for name in load_file(done.encoder)} == {"encoder", "decoder"}


@pytest.fixture(scope="session")
def motorcycle() -> Path:
    """Folder of the one real stereo pair at hand: scikit-image's, with its true disparity, where it came with it."""
    data = pytest.importorskip("skimage.data")
    folder = Path(data.__file__).parent
    names = ("motorcycle_left.png", "motorcycle_right.png", "motorcycle_disp.npz")
    if not all((folder / name).exists() for name in names):
        pytest.skip("scikit-image came without its stereo pair")
    return folder


REAL = (72, 104)  # rows and columns that the real pair is made


def true_disparity(folder: Path) -> torch.Tensor:
    """Read the disparity of each left pixel as a fraction of the width, ``1 1 rows columns``; NaN where nobody knows."""
    known = np.load(folder / "motorcycle_disp.npz")["arr_0"].astype(np.float32)
    known[~np.isfinite(known)] = np.nan
    share = torch.from_numpy(known / known.shape[1])[None, None]
    return torch.nn.functional.interpolate(share, REAL, mode="nearest-exact")


def real_pair(motorcycle: Path, place: Path, own: Options) -> tuple[Path, Pair]:
    """Write the manifest of the real pair, and read it as a run would."""
    manifest = place / "real.csv"
    manifest.write_text(
        f"image,subject\n{motorcycle / 'motorcycle_left.png'};{motorcycle / 'motorcycle_right.png'},m\n"
    )
    store = open_store(ArthroscopyDepth, own, place / "cache")
    sources = index_scans(manifest, cache=place / "cache").sources
    (record,) = store.prepare(sources, rule=ArthroscopyDepth.intensity(own)).records
    left, right = read_views(record)[None].chunk(2, dim=1)
    return manifest, Pair(left, right)


def test_a_real_pair_is_read_so_that_its_true_disparity_rebuilds_it(
    motorcycle: Path, tmp_path: Path
):
    own = Options(**{**SMALL, "patch_size": REAL})
    _, (left, right) = real_pair(motorcycle, tmp_path, own)
    truth = true_disparity(motorcycle)
    assert left.shape == right.shape == (1, 3, *REAL)
    assert 0.005 < float(truth.nanmedian()) < 0.1
    columns = torch.arange(REAL[1]) / REAL[1]
    seen = (truth.isfinite() & (columns > truth.nan_to_num() + 0.02)).expand_as(left)
    there = truth.nan_to_num()
    error, wrong, unmoved = (
        float((each - left).abs()[seen].mean())
        for each in (shift_columns(right, -there), shift_columns(right, there), right)
    )
    assert error < 0.4 * unmoved
    assert wrong > unmoved


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_small_scale_proof_on_a_real_pair(motorcycle: Path, tmp_path: Path, proof):
    """One pair learnt by heart: what is shown is that real pictures pass through, and nothing of other scenes."""
    own = Options(**{**SMALL, "patch_size": REAL})
    manifest, (left, right) = real_pair(motorcycle, tmp_path, own)
    values = {**SMALL, **QUIET, "patch_size": REAL, "lr": 1e-3, "steps": 300, "epochs": 600}
    pretrain("arthroscopy-depth", manifest, tmp_path / "run", cache=tmp_path / "cache", **values)
    trained = load_method(tmp_path / "run").method
    assert isinstance(trained, ArthroscopyDepth)
    with torch.no_grad():
        scores = trained.score(Pair(left, right))
        found = trained.disparity(trained.decode(left))[0][:, :1]
    truth = true_disparity(motorcycle)
    inner = truth.isfinite() & (torch.arange(REAL[1]) >= REAL[1] // 8)
    wanted, told = truth[inner] * REAL[1], found[inner] * REAL[1]
    figures = {
        "error_px": float((told - wanted).abs().mean()),
        "constant_px": float((wanted - wanted.median()).abs().mean()),
        "error": float(scores["error"]),
        "unmoved": float(scores["unmoved"]),
    }
    proof("arthroscopy-depth", data="scikit-image's stereo pair, learnt by heart", **figures)
    assert figures["error"] < 0.6 * figures["unmoved"]
    assert figures["error_px"] < figures["constant_px"]


def learn(folder: Path, *, exchanged: bool = False) -> dict[str, float]:
    """Learn depth of virtual pairs; give held-out errors beside those of the best constant and of zero disparity."""
    manifest = write_stereo(folder, objects=0, patients=60, masks=False)
    if exchanged:
        text = manifest.read_text()
        for number in range(60):
            names = [f"{side}{number:03d}.png" for side in ("left", "right")]
            text = text.replace(";".join(names), ";".join(names[::-1]))
        manifest.write_text(text)
    pretrain(
        "arthroscopy-depth",
        manifest,
        folder / "run",
        cache=folder / "cache",
        encoder="resenc-tiny",
        patch_size=(48, 64),
        batch_size=6,
        lr=1e-3,
        steps=400,
        epochs=400,
        **QUIET,
    )
    trained = load_method(folder / "run").method
    assert isinstance(trained, ArthroscopyDepth)
    lefts, rights, truths = (
        torch.cat(each) for each in zip(*map(drawn, range(500, 516)), strict=True)
    )
    inner = (..., slice(8, -8))
    with torch.no_grad():
        found = trained.disparity(trained.decode(lefts))[0][:, :1]
    truth = truths[inner] * 64
    rebuilt = shift_columns(rights, -found)
    return {
        "error_px": float((found[inner] * 64 - truth).abs().mean()),
        "constant_px": float((truth - truth.median()).abs().mean()),
        "photometric": float((rebuilt - lefts)[inner].abs().mean()),
        "unmoved": float((rights - lefts)[inner].abs().mean()),
    }


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_small_scale_proof_on_virtual_pairs(tmp_path: Path, proof):
    """Disparities of scenes never seen err by less than half of the best constant; with views exchanged they do not."""
    figures = learn(tmp_path / "right")
    broken = learn(tmp_path / "broken", exchanged=True)
    exchanged = {f"{name}_exchanged": broken[name] for name in ("error_px", "photometric")}
    proof("arthroscopy-depth", data="phantom", **figures, **exchanged)
    assert figures["error_px"] < 0.5 * figures["constant_px"]
    assert figures["photometric"] < 0.25 * figures["unmoved"]
    assert broken["error_px"] > 0.8 * broken["constant_px"]
    assert broken["photometric"] > 0.5 * broken["unmoved"]


FEW = {
    "encoder": "resenc-tiny",
    "patch_size": (32, 40),
    "batch_size": 5,
    "lr": 1e-3,
    "epochs": 4000,
}
SEGMENTING = 200  # steps with masks, with and without depth


def segment_few(folder: Path, seed: int, **options) -> float:
    """Learn from five labelled frames and 60 pairs; give the Dice of the disc in frames never seen."""

    def five(row):
        few = f"patient{12 * (seed % 3)}"
        numbers = range(int(few.removeprefix("patient")), int(few.removeprefix("patient")) + 5)
        kept = row["subject"] in {f"patient{number}" for number in numbers}
        return row if kept or not row["mask"] else None

    drawn = write_stereo(folder / "scans", objects=0, patients=60, shape=(32, 40))
    manifest = rewritten(drawn, five)
    values = {**FEW, **QUIET, "seed": seed, **options}
    done = pretrain(
        "arthroscopy-depth",
        rewritten(
            manifest,
            lambda row: {**row, "split": "val" if row["subject"] == "patient59" else "train"},
        ),
        folder / "run",
        cache=folder / "cache",
        **values,
    )
    assert done.result.exit_reason == "finished"
    trained = load_method(folder / "run").method
    assert isinstance(trained, ArthroscopyDepth)
    shown = [scene(number, (32, 40)) for number in range(700, 732)]
    frames = torch.stack([torch.from_numpy(each.left).permute(2, 0, 1) for each in shown]) / 255
    truth = torch.stack([torch.from_numpy(each.disc).long() for each in shown])
    with torch.no_grad():
        named = trained.name_classes(frames).argmax(1)
    return float(np.mean([dice_of_classes(a, b) for a, b in zip(named, truth, strict=True)]))


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_dice_of_five_labelled_frames_with_depth_and_without(tmp_path: Path, proof):
    """Three seeds, other five frames each; as many steps with masks either way."""
    without = {"depth_first": False, "depth_weight": 0.0, "steps": SEGMENTING}
    found = {
        name: [segment_few(tmp_path / f"{name}{seed}", seed, **how) for seed in range(3)]
        for name, how in (("with_depth", {"steps": 2 * SEGMENTING}), ("without_depth", without))
    }
    figures = {f"dice_{name}": float(np.mean(each)) for name, each in found.items()}
    figures |= {
        f"dice_{name}_seed{n}": d for name, each in found.items() for n, d in enumerate(each)
    }
    proof("arthroscopy-depth", data="phantom, five labelled frames", **figures)
    assert figures["dice_with_depth"] > figures["dice_without_depth"]
