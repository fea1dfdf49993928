"""What weights learnt on, and what scans are that do not say it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from unlabeled.data.index import index_scans
from unlabeled.data.scan import ScanFile, Source
from unlabeled.demo.phantoms import write_patients
from unlabeled.errors import OptionError
from unlabeled.nn.weights import read_weights
from unlabeled.training.origin import name_modality, usual_spacing
from unlabeled.training.pretrain import pretrain


def source(modality: str = "") -> Source:
    file = ScanFile((Path("a.nii"),), "nifti")
    return Source(name="a.nii", channels=(file,), subject="a", modality=modality)


def test_what_is_asked_for_names_only_what_does_not_say():
    named = name_modality([source(), source("MR")], "CT", {})
    assert [each.modality for each in named] == ["CT", "MR"]


def test_weights_of_ct_refuse_scans_that_do_not_say_what_they_are():
    with pytest.raises(OptionError, match="1 of 2 scans do not say"):
        name_modality([source(), source("CT")], "", {"modality": ["CT"]})
    assert name_modality([source("CT")], "", {"modality": ["CT"]})
    assert name_modality([source()], "", {"modality": ["MR"]})
    assert name_modality([source()], "", {})


def test_stacks_in_several_directions_have_a_usual_slice():
    def stack(*spacing):
        return SimpleNamespace(dims=len(spacing), spacing=spacing)

    heart = [stack(1.4, 1.4, 8.0), stack(1.5, 8.0, 1.5), stack(8.0, 1.6, 1.6)]
    assert usual_spacing(heart, by_slice=True) == [1.5, 1.5, 8.0]
    assert usual_spacing([stack(2.0, 1.0)], by_slice=True) == [2.0, 1.0]
    assert usual_spacing([stack(1.0, 1.2, 1.0)], by_slice=True) == [1.0, 1.2, 1.0]


def test_nifti_of_ct_gets_the_fixed_window_when_it_is_said(tmp_path):
    write_patients(tmp_path / "scans", patients=3, shape=(20, 20, 20), kind="ct")
    assert {each.modality for each in index_scans(tmp_path / "scans").sources} == {""}
    run = pretrain(
        "models-genesis",
        tmp_path / "scans",
        tmp_path / "run",
        cache=tmp_path / "cache",
        modality="CT",
        encoder="resenc-tiny",
        patch_size=(16, 16, 16),
        batch_size=2,
        steps=1,
        quiet=True,
    )
    assert read_weights(run.encoder)[1]["modality"] == ["CT"]
