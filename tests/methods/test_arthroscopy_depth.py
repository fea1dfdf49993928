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
from unlabeled.errors import DataError, OptionError
from unlabeled.losses.photometric import (
    edge_aware_smoothness,
    photometric_error,
    structural_distance,
)
from unlabeled.methods.arthroscopy_depth import ArthroscopyDepth, Labelled, Options, Pair, visit
from unlabeled.nn.disparity import shift_columns
from unlabeled.nn.encoders import build_encoder
from unlabeled.rng import generator
from unlabeled.training.pretrain import open_store, pretrain
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
        assert float(changed.min()) >= 0
        assert float(changed.max()) <= 1
        assert not torch.equal(changed[:3], left)


def test_a_constant_disparity_is_consistent_within_and_smooth():
    constant = torch.full((1, 1, 8, 40), 0.1)
    told = shift_columns(constant, -constant)
    assert (told - constant)[..., 5:].abs().max() < 1e-6
    assert float(edge_aware_smoothness(constant, torch.rand(1, 3, 8, 40))) == 0


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


def test_data_without_right_views_are_refused_with_what_to_do(tmp_path: Path):
    own = Options(**SMALL)
    found = [r for r in records(tmp_path, own, objects=0, patients=2) if r.mask is not None]
    with pytest.raises(DataError, match="no scan has a right view"):
        ArthroscopyDepth.suit(own, found)
    alone = Options(**SMALL, depth_first=False, depth_weight=0.0)
    assert ArthroscopyDepth.suit(alone, found).classes == 2
    with pytest.raises(OptionError, match="--patch-size 24 24"):
        Options(patch_size=(16, 32))


def test_a_subject_in_two_splits_is_refused(tmp_path: Path):
    manifest = write_stereo(tmp_path, objects=2, patients=3)
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        row["split"] = "train" if number % 2 else "test"
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(DataError, match="patient"):
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
