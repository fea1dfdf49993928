"""Single scans that a method cannot use under its options are left out and named; when none is left, it is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from toys import TinyEncoder, Toy, ToyOptions

from unlabeled.errors import DataError, ScanError
from unlabeled.training import pretrain as pretraining


class Wide(Toy):
    """Learns from pictures that are wide enough."""

    @classmethod
    def require(cls, record, options):
        if record.space[1] < 2 * options.patch_size[1]:
            raise ScanError(f"is {record.space[1]} wide", f"Give --patch-size 8 {record.space[1] // 2}.")  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "find", lambda slug: Wide)
    monkeypatch.setattr(pretraining, "build_encoder", lambda *a, **k: TinyEncoder(2, 1))

    def go(widths):
        for number, width in enumerate(widths):
            pixels = np.random.default_rng(number).integers(0, 255, (16, width), dtype=np.uint8)
            (tmp_path / "scans").mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "scans" / f"p{number}.png")
        options = ToyOptions(patch_size=(8, 8), dims=2, steps=1)
        return pretraining.pretrain(
            "wide", tmp_path / "scans", tmp_path / "run", options=options, cache=tmp_path / "cache", quiet=True
        )  # fmt: skip

    return go


def test_a_scan_that_the_method_refuses_is_left_out_and_named(run, tmp_path):
    done = run([16, 20, 12, 16])
    assert (done.scans, done.quarantined) == (3, 1)
    named = (tmp_path / "run" / "quarantine.csv").read_text()
    assert "p2.png,is 12 wide,Give --patch-size 8 6." in named


def test_when_the_method_refuses_all_the_run_is_refused(run, tmp_path):
    with pytest.raises(DataError, match=r"p0.png: is 10 wide \(and 2 more alike\)") as fault:
        run([10, 10, 12])
    assert "Give --patch-size 8 5." in fault.value.remedy
    assert not (tmp_path / "run" / "encoder.safetensors").exists()
