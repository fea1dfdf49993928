"""An estimate: what is counted is what the loop does, sums are right to the byte, few scans stand for all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toys import Pairs, Stages, TinyEncoder, Toy, ToyOptions

from unlabeled.data.index import index_scans
from unlabeled.data.scan import Quarantined
from unlabeled.errors import DataError, OptionError, RunError
from unlabeled.training import excerpt, rehearsal
from unlabeled.training.engine import train
from unlabeled.training.estimate import Machine, estimate, note, warn
from unlabeled.training.excerpt import Excerpt, PreparationTrial, spread
from unlabeled.training.forecast import forecast
from unlabeled.training.log import RunFolder
from unlabeled.training.pretrain import prepare_all
from unlabeled.training.rehearsal import Measured
from unlabeled.training.settings import Settings, make_fabric
from unlabeled.training.trial import PhaseTrial, Trial, Watch

PHASE = PhaseTrial(
    name="only",
    steps=1000,
    epoch_steps=100,
    scores=10,
    lines=100,
    saves=3,
    bests=5,
    tried=20,
    start=2.0,
    step=0.5,
    step_low=0.48,
    step_high=0.7,
    wait=0.2,
    line=0.01,
    score=1.0,
    first_score=4.0,
    save=0.5,
    best=0.25,
    end=1.0,
    line_bytes=200,
    score_bytes=150,
    preview_bytes=5000,
    save_bytes=3_000_000,
)
MEASURED = Measured(
    scans=12,
    left_out=1,
    start=5.0,
    preparation=PreparationTrial(
        held=2, fresh=10, tried=4, looking=0.5, once=1.5, work=20.0, held_bytes=70, fresh_bytes=900
    ),
    setup=1.0,
    phases=(PHASE,),
    finish=0.5,
    last_bytes=1_000_000,
    best_bytes=1_000_001,
    encoder_bytes=800_000,
    board_bytes=300.0,
    other_bytes=4321,
    memory=10**9,
)
GIB = 2**30
MACHINE = Machine(
    memory=8 * GIB,
    free_memory=4 * GIB,
    gpu_memory=None,
    free_store=GIB,
    free_run=GIB,
    processors=2,
)


def quiet(text: str) -> None:
    """Hear nothing."""


def build(kind, **values):
    torch.manual_seed(0)
    return kind(ToyOptions(**values), TinyEncoder())


def folder_at(path):
    folder = RunFolder(path)
    folder.create(resume=False)
    return folder


def trial_of(method, records, held_out, settings, path, seconds):
    fabric, arithmetic = make_fabric(settings)
    given = (method, records, held_out, settings, folder_at(path), fabric, arithmetic, "trial")
    trial = Trial(*given, seconds=seconds, say=quiet)
    trial.run()
    return trial


def test_time_is_the_sum_of_all_parts() -> None:
    expected = forecast(MEASURED)
    preparing = 0.5 + 1.5 + 20.0
    once = 2.0 + 1.0 + (4.0 - 1.0)
    training = 1000 * 0.5 + 100 * 0.01 + 10 * 1.0 + 3 * 0.5 + 5 * 0.25
    assert expected.seconds == pytest.approx(5.0 + preparing + 1.0 + once + training + 0.5)
    assert sum(part.seconds for part in expected.parts) == pytest.approx(expected.seconds)
    assert expected.training_share == pytest.approx(500 / expected.seconds)
    assert expected.wait_share == pytest.approx(100 / expected.seconds)
    assert expected.low == pytest.approx(
        expected.seconds - 0.1 * preparing - 50
    )  # at least a tenth
    assert expected.high == pytest.approx(expected.seconds + 0.1 * preparing + 200)  # as measured
    assert expected.steps == 1000


def test_disk_is_right_to_the_byte() -> None:
    expected = forecast(MEASURED)
    logs = 100 * (200 + 300) + 10 * 150
    rest = logs + 10 * 5000 + 800_000 + 4321
    assert expected.run_bytes == rest + 1_000_000 + 1_000_001
    assert expected.peak_bytes == rest + 2 * 3_000_000 + 1_000_001
    assert (expected.store_bytes, expected.held_bytes) == (900, 70)


def test_two_phases_are_both_counted() -> None:
    other = replace(PHASE, name="other", steps=10, scores=0, saves=0, bests=0)
    both = forecast(replace(MEASURED, phases=(PHASE, other)))
    more = 10 * 0.5 + 100 * 0.01 + 2.0 + 1.0  # no score, so no first score that took longer
    assert both.seconds == pytest.approx(forecast(MEASURED).seconds + more)
    names = [part.name for part in both.parts]
    assert {"training steps (only)", "training steps (other)"} <= set(names)
    assert "scores and previews (other)" not in names


def test_processes_share_preparation_as_far_as_there_are_processors(monkeypatch) -> None:
    monkeypatch.setattr("unlabeled.training.forecast.cores", lambda: 4)
    alone = forecast(MEASURED).seconds
    eight = replace(MEASURED.preparation, crew=8, gathering=2.0)
    assert forecast(replace(MEASURED, preparation=eight)).seconds == pytest.approx(
        alone - 20 + 20 / 4 + 2
    )


@pytest.mark.parametrize(
    ("kind", "values", "every", "score_every"),
    [
        (Toy, {"epochs": 3, "samples_per_scan": 3}, 4, 5),
        (Toy, {"epochs": 9, "steps": 7, "samples_per_scan": 2}, 3, 1),
        (Stages, {"epochs": 6}, 2, 1),
        (Pairs, {"epochs": 4, "batch_size": 3}, 10, 2),
    ],
)
def test_the_trial_counts_what_the_run_then_does(
    kind, values, every, score_every, records, tmp_path
) -> None:
    settings = Settings(log_every=every, score_every=score_every, quiet=True, accelerator="cpu")
    given = (records[2:], records[:2], settings)
    trial = trial_of(build(kind, **values), *given, tmp_path / "trial", 1e-3)
    whole = folder_at(tmp_path / "whole")
    result = train(build(kind, **values), *given, whole)
    log = whole.read_log()
    assert sum(phase.steps for phase in trial.trials) == result.steps
    for phase in trial.trials:
        mine = [line for line in log if line["phase"] == phase.name]
        assert phase.lines == sum("total" in line for line in mine)
        assert phase.scores == sum("held_out" in line for line in mine) > 0
        assert phase.tried <= phase.steps
        assert phase.step > 0
        assert 0 <= phase.wait <= 1
        assert phase.step_low <= phase.step <= phase.step_high
    pictures = [path.stat().st_size for path in whole.previews.iterdir()]
    guess = sum(phase.scores * phase.preview_bytes for phase in trial.trials)
    assert guess == pytest.approx(sum(pictures), rel=0.2)
    if kind is Pairs:  # keeps the best weights
        assert all(phase.bests and phase.best for phase in trial.trials)
    assert trial.folder.last.stat().st_size == pytest.approx(whole.last.stat().st_size, rel=0.02)


def test_a_trial_ends_long_before_the_run(records, tmp_path) -> None:
    settings = Settings(quiet=True, accelerator="cpu", checkpoint_steps=50)
    method = build(Stages, epochs=10_000, samples_per_scan=5)
    trial = trial_of(method, records[2:], records[:2], settings, tmp_path / "run", 0.2)
    first, second = trial.trials
    assert (first.name, second.name) == ("first", "second")
    assert first.steps + second.steps == 10_000 * 12
    assert second.steps == pytest.approx(2 * first.steps, rel=0.01)
    assert max(first.tried, second.tried) < 2000
    assert first.saves == first.steps // 50
    assert first.save_bytes > trial.folder.last.stat().st_size > 0  # the optimisers' state
    assert method.calls == ["rebuild"]


def test_without_held_out_scans_nothing_is_scored(records, tmp_path) -> None:
    settings = Settings(quiet=True, accelerator="cpu")
    trial = trial_of(build(Toy), records, (), settings, tmp_path / "run", 1e-3)
    (phase,) = trial.trials
    assert (phase.scores, phase.score, phase.preview_bytes) == (0, 0.0, 0.0)


def test_checkpoints_are_written_where_the_run_would_write_some(records, tmp_path) -> None:
    for name, settings, expected in (
        ("short", Settings(quiet=True, accelerator="cpu"), 0),
        ("every", Settings(quiet=True, accelerator="cpu", checkpoint_minutes=0.0), 12),
    ):
        method = build(Toy, epochs=4, samples_per_scan=1)
        trial = trial_of(method, records, (), settings, tmp_path / name, 1e-3)
        assert trial.trials[0].saves == expected
        assert (trial.trials[0].save_bytes > 0) == bool(expected)


def watched(work, pauses, block=1, warming=2):
    watch = Watch(block, warming)
    now = watch.began = 100.0
    for own, pause in zip(work, [5.0, *pauses], strict=True):
        watch.entered.append(now + pause)
        now += pause + own
        watch.left.append(now)
        watch.worked.append(now / 2)
    watch.pauses = list(pauses)
    return watch


def test_the_first_steps_do_not_count_and_single_slow_ones_little() -> None:
    watch = watched([3.0, 2.0, 1.5, *([1.0] * 19), 40.0], [0.25] * 22)
    low, middle, high = watch.step()
    assert middle == pytest.approx(1.25)
    assert low == pytest.approx(1.25)
    assert high > middle
    assert watch.start() == pytest.approx(5.0 + (3.0 - 1.25) + (2.25 - 1.25) + (1.75 - 1.25))


def test_rounds_of_workers_are_averaged() -> None:
    watch = watched([0.1] * 42, [0.0, 0.0, 0.0, *([3.9, 0.0, 0.0, 0.0] * 9), 3.9, 0.0], 4, 3)
    assert watch.step()[1] == pytest.approx(0.1 + 3.9 / 4)
    assert watch.wait() == pytest.approx(3.9 / 4.3, rel=0.02)
    assert watch.processors() == pytest.approx(0.5)


def test_a_run_of_one_step_is_timed_by_it() -> None:
    watch = watched([3.0], [])
    assert watch.step() == (3.0, 3.0, 3.0)
    assert watch.start() == pytest.approx(5.0)
    assert watch.wait() == 0
    assert watch.processors() == 1.0


def test_a_trial_is_enough_when_settled_or_when_time_is_over() -> None:
    steady, wild = [1.0] * 14, [1.0, 3.0] * 7
    assert watched(steady, [0.0] * 13).enough(20)
    assert not watched(steady, [0.0] * 13).enough(100)  # a quarter of the time at least
    assert not watched(wild, [0.0] * 13).enough(40)
    assert watched(wild, [0.0] * 13).enough(20)
    assert not watched([30.0] * 3, [0.0] * 2).enough(20)  # nothing but warming


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 33])
def test_spread_gives_each_place_once(count: int) -> None:
    assert sorted(spread(count)) == list(range(count))


def state_of(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_few_scans_stand_for_all_and_the_cache_is_not_touched(
    tiny_scans, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(excerpt, "MOST", 4)
    cache, options, settings = tmp_path / "cache", ToyOptions(), Settings(quiet=True)
    sources = index_scans(tiny_scans).sources
    prepare_all(Toy, options, sources[:3], settings, cache)
    for path in cache.rglob("*"):
        os.utime(path, (1, 1))
    before = state_of(cache)
    few = Excerpt(tmp_path / "trial", 60)
    prepared = few.prepare(Toy, options, sources, settings, cache)
    assert state_of(cache) == before
    its = few.measured
    assert (its.held, its.fresh, its.tried) == (3, 9, 4)
    assert [record.source for record in prepared.records] == list(sources)
    assert len({record.path for record in prepared.records}) == 3 + 4
    whole = prepare_all(Toy, options, sources, settings, tmp_path / "whole").records
    sizes = [record.path.stat().st_size for record in whole]
    assert its.held_bytes == sum(sizes[:3])
    assert its.fresh_bytes == pytest.approx(sum(sizes[3:]), rel=0.05)
    assert its.work > 0
    assert not few.measured.crew


def test_preparation_that_is_whole_in_the_trial_is_known_to_the_byte(tiny_scans, tmp_path) -> None:
    sources = index_scans(tiny_scans).sources
    given = (Toy, ToyOptions(), sources, Settings(quiet=True))
    few = Excerpt(tmp_path / "trial", 60)
    few.prepare(*given, tmp_path / "cache")
    whole = prepare_all(*given, tmp_path / "whole").records
    assert few.measured.tried == 12
    assert few.measured.fresh_bytes == sum(record.path.stat().st_size for record in whole)
    assert not (tmp_path / "cache").exists()


def test_scans_whose_like_cannot_be_read_are_left_out_for_the_same_reason(
    tiny_scans, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(excerpt, "MOST", 6)
    scans = tmp_path / "scans"
    scans.mkdir()
    for number, path in enumerate(sorted(tiny_scans.iterdir())):
        content = path.read_bytes()
        broken = number % 2
        name = path.name.replace(".nii.gz", ".nii") if broken else path.name
        (scans / name).write_bytes(b"no header" if broken else content)
    sources = index_scans(scans).sources
    given = (Toy, ToyOptions(), sources, Settings(quiet=True), tmp_path / "cache")
    prepared = Excerpt(tmp_path / "trial", 60).prepare(*given)
    assert len(prepared.records) == len(prepared.quarantine) == 6
    assert {row.name.rpartition(".")[2] for row in prepared.quarantine} == {"nii"}
    assert all(row.name in row.reason for row in prepared.quarantine)
    assert all(isinstance(row, Quarantined) for row in prepared.quarantine)


def test_what_exceeds_the_machine_is_said_with_what_to_change() -> None:
    expected, options = forecast(MEASURED), ToyOptions(patch_size=(8, 8, 8), batch_size=4)
    easy = replace(expected, wait_share=0.05)
    assert warn(MEASURED, easy, MACHINE, options) == ()
    for memory, words in ((9 * GIB, "than this machine has"), (5 * GIB, "than is free now")):
        (said,) = warn(replace(MEASURED, memory=memory), easy, MACHINE, options)
        assert words in said
        assert "--batch-size 2, --patch-size 4 4 4, fewer --workers" in said
    (said,) = warn(
        replace(MEASURED, gpu_memory=9 * GIB),
        easy,
        replace(MACHINE, gpu_memory=8 * GIB),
        replace(options, batch_size=1),
    )
    assert "than the device has: give --patch-size 4 4 4" in said
    (said,) = warn(MEASURED, replace(easy, store_bytes=2 * GIB), MACHINE, options)
    assert "--cache on another disk" in said
    (said,) = warn(MEASURED, replace(easy, peak_bytes=2 * GIB), MACHINE, options)
    assert "--out on another disk" in said
    (said,) = warn(MEASURED, expected, MACHINE, options)
    assert "wait for data 18 % of the time: give more --workers, 1 at most" in said


def test_what_the_figures_do_not_say_is_noted() -> None:
    expected = forecast(MEASURED)
    assert note(ToyOptions(), MEASURED, expected, MACHINE) == ()
    (patience,) = note(ToyOptions(patience=5), MEASURED, expected, MACHINE)
    assert "after 5 scores" in patience
    (large,) = note(ToyOptions(), MEASURED, replace(expected, held_bytes=9 * GIB), MACHINE)
    assert "slow disk" in large
    shared = replace(MEASURED, phases=(replace(PHASE, processors=0.4),))
    (busy,) = note(ToyOptions(), shared, expected, MACHINE)
    assert "training had 0.4 processors" in busy
    assert note(ToyOptions(), replace(shared, gpu_memory=1), expected, MACHINE) == ()


def test_what_a_trial_cannot_do_is_refused_at_once(tmp_path) -> None:
    for values, words in (
        ({"devices": 2}, "one device, not on 2"),
        ({"trial_seconds": 0}, "--trial-seconds is 0"),
        ({"trial_seconds": float("nan")}, "--trial-seconds is nan"),
        ({"epoch": 3}, "unknown option --epoch"),
    ):
        with pytest.raises(OptionError, match=words):
            estimate("models-genesis", tmp_path, **values)


def test_measurements_survive_json_and_errors_keep_their_kind(tmp_path) -> None:
    answer = tmp_path / "answer.json"
    answer.write_text(json.dumps(rehearsal.asdict(MEASURED)))
    assert rehearsal.read_answer(answer, 0) == MEASURED
    answer.write_text(json.dumps({"error": "DataError", "fact": "none", "remedy": "add some"}))
    with pytest.raises(DataError) as refused:
        rehearsal.read_answer(answer, 0)
    assert (refused.value.fact, refused.value.remedy) == ("none", "add some")
    with pytest.raises(RunError, match="signal 9, as a rule because the memory was used up"):
        rehearsal.read_answer(tmp_path / "nothing", -9)
    with pytest.raises(RuntimeError, match="code 3"):
        rehearsal.read_answer(tmp_path / "nothing", 3)


def test_the_most_memory_of_another_process_is_seen_though_it_gave_it_back() -> None:
    words = "import sys; x = bytearray(150 << 20); del x; print(1, flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        seen = rehearsal.memory_of(rehearsal.psutil.Process(process.pid))
        process.stdin.close()
    if Path("/proc/self/status").exists():
        assert 150 << 20 < seen < 190 << 20
    assert seen > 0


def test_memory_of_workers_counts_what_they_do_not_share() -> None:
    worker = "import sys; x = bytearray(100 << 20); print(1, flush=True); sys.stdin.read()"
    words = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {worker!r}]); p.wait()"
    command = [sys.executable, "-c", words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        seen = rehearsal.memory_of(rehearsal.psutil.Process(process.pid))
        process.stdin.close()
    assert 100 << 20 < seen < 160 << 20
