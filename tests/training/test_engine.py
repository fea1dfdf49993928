"""The loop: order of updates, resumption at any step, logs, scores, patience, faults."""

from __future__ import annotations

import itertools
import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from toys import Broken, Opponents, Pairs, Stages, TinyEncoder, Toy, ToyOptions

from unlabeled.errors import RunError
from unlabeled.methods._base import Feed, Phase
from unlabeled.nn.schedules import decaying
from unlabeled.rng import derive
from unlabeled.training import checkpoint
from unlabeled.training.engine import train
from unlabeled.training.log import RunFolder
from unlabeled.training.settings import Settings


def make(kind=Toy, **options):
    made = ToyOptions(**options)
    torch.manual_seed(derive(made.seed, "weights"))
    return kind(made, TinyEncoder())


def run(folder, records, method, held_out=2, **settings):
    place = RunFolder(folder)
    place.create(resume=settings.get("resume", False))
    rules = {"quiet": True, "log_every": 1, "score_every": 1, "accelerator": "cpu", **settings}
    return train(method, records[held_out:], records[:held_out], Settings(**rules), place)


def weights(method):
    return {name: tensor.clone() for name, tensor in method.state_dict().items()}


def same(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def steps_of(folder):
    return [row["total"] for row in RunFolder(folder).read_log() if "total" in row]


def test_training_moves_the_weights_and_lowers_the_loss(tmp_path, records):
    method = make(epochs=12)
    before = weights(method)
    result = run(tmp_path, records, method)
    losses = [row["loss"] for row in RunFolder(tmp_path).read_log() if "loss" in row]
    assert not same(before, weights(method))
    assert sum(losses[-4:]) < sum(losses[:4])
    assert result.steps == 24
    assert result.exit_reason == "finished"
    assert set(result.score) == {"mse", "variance"}
    assert list((tmp_path / "previews").glob("*.png"))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path, records):
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        method = make(seed=seed)
        run(tmp_path / name, records, method)
        found.append(weights(method))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


@pytest.mark.parametrize("kind", [Toy, Opponents, Stages, Pairs])
@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, records, kind, stop):
    whole = make(kind)
    run(tmp_path / "whole", records, whole, checkpoint_steps=1)

    class Killed(Exception):  # noqa: N818
        """Stands for kill -9: nothing is saved on the way out."""

    cut = make(kind)
    performed = 0
    inner = cut.optimiser

    def optimiser(name, modules):
        made, schedule = inner(name, modules)
        move = made.step

        def step(*args, **kwargs):
            nonlocal performed
            performed += 1
            if performed > stop:
                raise Killed
            return move(*args, **kwargs)

        made.step = step
        return made, schedule

    cut.optimiser = optimiser
    with pytest.raises(Killed):
        run(tmp_path / "cut", records, cut, checkpoint_steps=1)
    again = make(kind, seed=0)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.add_(1.0)  # whatever the new process starts with must not matter
    if not (tmp_path / "cut" / "checkpoints" / "last.safetensors").exists():
        again = make(kind)
    run(tmp_path / "cut", records, again, checkpoint_steps=1, resume=True)
    assert same(weights(whole), weights(again))
    assert steps_of(tmp_path / "cut") == steps_of(tmp_path / "whole")


def test_updates_are_performed_in_order_and_move_their_own_weights_alone(tmp_path, records):
    method = make(Opponents, steps=3, epochs=50)
    run(tmp_path, records, method)
    assert method.seen == ["moved"] * 3
    rows = [row for row in RunFolder(tmp_path).read_log() if "total" in row]
    assert {"loss critic", "loss generator", "lr critic", "lr generator"} <= set(rows[0])


def test_phases_share_the_epochs_and_rebuild_in_between(tmp_path, records):
    method = make(Stages, epochs=3)
    run(tmp_path, records, method)
    rows = [row["phase"] for row in RunFolder(tmp_path).read_log() if "total" in row]
    assert rows == ["first"] * 2 + ["second"] * 4
    assert method.calls == ["rebuild"]
    assert method.background != 0


def test_a_frozen_part_does_not_move_in_a_phase_that_does_not_train_it(tmp_path, records):
    method = make(Stages, steps=3, epochs=90)
    moved = {}

    def rebuild(seen):
        moved["before"] = method.encoder.conv.weight.clone()

    method.rebuild = rebuild
    run(tmp_path, records, method)
    assert torch.equal(moved["before"], method.encoder.conv.weight)


def test_steps_end_the_run_and_the_schedule_with_it(tmp_path, records):
    run(tmp_path, records, make(epochs=1000, steps=5))
    rows = [row for row in RunFolder(tmp_path).read_log() if "total" in row]
    assert [row["total"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[-1]["lr"] < 0.1 * rows[0]["lr"]


def test_a_schedule_may_count_steps_whatever_an_epoch_is(tmp_path, records):
    method = make(epochs=1000, steps=5)
    optimiser = method.optimiser
    method.optimiser = lambda *place: (optimiser(*place)[0], decaying(2, 0.5))
    run(tmp_path, records, method)
    rows = [row for row in RunFolder(tmp_path).read_log() if "total" in row]
    rates = [row["lr"] / method.options.lr for row in rows]
    assert rates == pytest.approx([1, 1, 0.5, 0.5, 0.25])


def test_patience_ends_the_run_and_resuming_does_not_go_on(tmp_path, records):
    method = make(epochs=500, lr=1e-12, patience=3)
    result = run(tmp_path, records, method)
    assert result.exit_reason == "patience"
    assert result.steps < 100
    again = run(tmp_path, records, make(epochs=500, lr=1e-12, patience=3), resume=True)
    assert again.steps == result.steps


def test_a_feed_makes_samples_of_what_it_groups(tmp_path, records):
    method = make(Pairs, epochs=2)
    seen = []
    pair = method.pair
    method.pair = lambda item, rng: seen.append(item) or pair(item, rng)
    run(tmp_path, records, method, held_out=0)
    follows = {(a.key, b.key) for a, b in itertools.pairwise(records)}
    assert {(a.key, b.key) for a, b in seen} <= follows
    assert len(seen) >= len(records) - 1


def test_a_curriculum_hears_what_share_of_its_phase_is_over(tmp_path, records):
    """From 0 to 1 in even steps, also when an interrupted run goes on; held-out items are not told."""
    heard: list[float] = []

    class Killed(Exception):  # noqa: N818
        """Stands for kill -9."""

    class Paced(Toy):
        dies_at: int | None = None
        taken = 0

        def tell(self, record, over):
            assert self.training
            heard.append(over)
            return record

        def phases(self):
            feed = Feed(self.views, 4, pace=self.tell)
            return tuple(Phase(name, self.step, {"main": [self]}, {"scans": feed}) for name in "ab")

        def step(self, batch):
            if self.taken == self.dies_at:
                raise Killed
            self.taken += 1
            yield from super().step(batch)

    for dies_at in (None, 2):
        heard.clear()
        cut = make(Paced, epochs=6, steps=10)
        cut.dies_at = dies_at
        folder = tmp_path / str(dies_at)
        if dies_at:
            with pytest.raises(Killed):
                run(folder, records, cut, checkpoint_steps=1)
            del heard[4 * dies_at :]  # batches of steps that were not taken
        run(folder, records, make(Paced, epochs=6, steps=10), checkpoint_steps=1, resume=bool(dies_at))  # fmt: skip
        assert heard[::4] == pytest.approx([0, 0.25, 0.5, 0.75, 1] * 2)


def test_each_phase_has_its_own_score_and_preview_and_ends_with_its_own_best(tmp_path, records):
    method = make(Pairs, epochs=6)
    ends = []
    original = method.summarise
    method.summarise = lambda records: ends.append(weights(method)) or original(records)
    result = run(tmp_path, records, method)
    assert set(result.score) == {"level"}
    names = [path.name for path in (tmp_path / "previews").iterdir()]
    assert {name.split("-")[1] for name in names} == {"first", "second"}
    # the held-out level never changes, so the first score of the second phase is its best
    best = checkpoint.read_checkpoint(tmp_path / "checkpoints" / "best.safetensors")
    assert best.state["progress"]["clock"]["phase"] == 1
    kept = {name.removeprefix("method."): tensor for name, tensor in best.tensors.items()}
    assert same(kept, ends[0])


def test_what_the_end_of_a_phase_makes_is_kept_and_made_once(tmp_path, records):
    method = make(Pairs, epochs=2)
    run(tmp_path, records, method)
    assert method.calls == ["summarise"]
    again = make(Pairs, epochs=2)
    run(tmp_path, records, again, resume=True)
    assert again.calls == []
    assert torch.equal(method.summary, again.summary)
    assert float(again.summary) != 0.0


def test_ctrl_c_saves_and_the_rest_follows_bit_for_bit(tmp_path, records):
    whole = make(epochs=4)
    run(tmp_path / "whole", records, whole)
    method = make(epochs=4)
    step, count = method.step, 0

    def interrupted(batch):
        nonlocal count
        count += 1
        if count == 3:
            os.kill(os.getpid(), signal.SIGINT)
        yield from step(batch)

    method.step = interrupted
    result = run(tmp_path / "cut", records, method)
    assert result.exit_reason == "interrupted"
    assert result.steps == 3
    again = make(epochs=4)
    assert run(tmp_path / "cut", records, again, resume=True).exit_reason == "finished"
    assert same(weights(whole), weights(again))


def test_a_loss_that_is_no_number_is_named_with_its_step(tmp_path, records):
    with pytest.raises(RunError, match="became nan at step 1"):
        run(tmp_path, records, make(Broken))
    assert "became nan" in RunFolder(tmp_path).read_facts()["exit_reason"]


def test_a_batch_of_one_and_more_samples_than_scans(tmp_path, records):
    assert run(tmp_path / "one", records, make(batch_size=1, steps=2)).steps == 2
    assert run(tmp_path / "many", records, make(batch_size=64, steps=2)).steps == 2


def test_nothing_held_out_means_no_scores(tmp_path, records):
    result = run(tmp_path, records, make(steps=2), held_out=0)
    assert result.score == {}
    assert result.best is None


def test_what_is_held_out_of_no_stream_is_left_out_of_scores_that_can_do_without(tmp_path, records):
    """Only p00 and p10 are in the stream of few: with other subjects held out, its samples cannot be scored."""

    class Lenient(Stages):
        def phases(self):
            first, second = super().phases()
            feeds = {**second.feeds, "few": replace(second.feeds["few"], scored=False)}
            return first, replace(second, feeds=feeds)

        def score(self, batch):
            if isinstance(batch, dict):
                asked.append(set(batch))
            return super().score(batch)

    asked: list[set[str]] = []
    few, others = [r for r in records if r.subject[-1] == "0"], records[1:9]
    alike = {"held_out": 2, "held_out_batches": 1}
    kept = run(tmp_path / "a", [*others[:2], *few, *others[2:]], make(Stages), **alike)
    assert kept.score == {}
    scored = run(tmp_path / "b", [*others[:2], *few, *others[2:]], make(Lenient), **alike)
    assert set(scored.score) == {"mse", "variance"}
    assert set.union(*asked) == {"scans"}
    asked.clear()
    run(tmp_path / "c", [few[0], others[0], few[1], *others[1:]], make(Lenient), **alike)
    assert set.union(*asked) == {"scans", "few"}


def test_a_stream_without_training_scans_is_found_out_before_the_first_phase(tmp_path, records):
    method = make(Stages)
    before = weights(method)
    with pytest.raises(RunError, match="phase second has no training scans for its stream few"):
        run(tmp_path, [r for r in records if r.subject[-1] != "0"], method)
    assert same(before, weights(method))
    assert not RunFolder(tmp_path).read_log()


def test_a_run_folder_is_not_overwritten(tmp_path, records):
    place = RunFolder(tmp_path)
    place.create(resume=False)
    place.write_facts({})
    with pytest.raises(RunError, match="already holds a run"):
        place.create(resume=False)
    place.create(resume=True)


def test_a_full_disk_is_one_message_and_the_old_checkpoint_stands(tmp_path, records, monkeypatch):
    run(tmp_path, records, make(steps=2))
    old = (tmp_path / "checkpoints" / "last.safetensors").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        checkpoint.write_atomically(tmp_path / "checkpoints" / "last.safetensors", b"new")
    assert (tmp_path / "checkpoints" / "last.safetensors").read_bytes() == old
    assert not list((tmp_path / "checkpoints").glob(".*part"))


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_checkpoint_is_named(tmp_path, records, damage):
    run(tmp_path, records, make(steps=2))
    last = tmp_path / "checkpoints" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-40] if damage is None else damage)
    with pytest.raises(RunError, match="is damaged"):
        run(tmp_path, records, make(steps=2), resume=True)


def test_a_checkpoint_of_another_network_is_refused(tmp_path, records):
    run(tmp_path, records, make(steps=2))
    with pytest.raises(RunError, match="another network"):
        run(tmp_path, records, make(Opponents, steps=2), resume=True)


def test_workers_do_not_change_what_is_learnt(tmp_path, records):
    found = []
    for workers in (0, 2):
        method = make(steps=3)
        run(tmp_path / str(workers), records, method, workers=workers)
        found.append(weights(method))
    assert same(*found)


def test_the_log_is_json_lines_with_rates_and_waiting(tmp_path, records):
    run(tmp_path, records, make(steps=2))
    first = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert {"phase", "epoch", "step", "total", "loss", "level", "lr"} <= set(first)
    assert first["scans_per_second"] > 0
    assert 0 <= first["wait_share"] <= 1
