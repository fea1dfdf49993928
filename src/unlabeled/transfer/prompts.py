"""Prompts of zero-shot classification: sentences that a report of each class might hold."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from unlabeled.data.reports import plain_words
from unlabeled.errors import OptionError

#: For common findings of chest radiographs; ours, in the way of GLoRIA's: how severe, of which kind, where.
FINDINGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "atelectasis": (
            "mild bibasilar atelectasis",
            "subsegmental atelectasis at the left lung base",
            "linear atelectasis in the right lower lobe",
            "retrocardiac atelectasis",
            "atelectasis with volume loss",
        ),
        "cardiomegaly": (
            "mild cardiomegaly",
            "moderate cardiomegaly",
            "enlarged cardiac silhouette",
            "the heart is enlarged",
            "increased heart size",
        ),
        "consolidation": (
            "patchy consolidation in the left lower lobe",
            "dense consolidation at the right lung base",
            "multifocal airspace consolidation",
            "consolidation in the right upper lobe",
            "new focal consolidation",
        ),
        "edema": (
            "mild pulmonary edema",
            "moderate interstitial edema",
            "pulmonary vascular congestion with edema",
            "diffuse pulmonary edema",
            "worsening pulmonary edema",
        ),
        "pleural effusion": (
            "small left pleural effusion",
            "large right pleural effusion",
            "bilateral pleural effusions",
            "blunted costophrenic angle with pleural fluid",
            "loculated pleural effusion",
        ),
        "pneumonia": (
            "right lower lobe pneumonia",
            "left lower lobe pneumonia",
            "multifocal pneumonia",
            "opacity concerning for pneumonia",
            "findings consistent with infection",
        ),
        "pneumothorax": (
            "small left apical pneumothorax",
            "large right pneumothorax",
            "pneumothorax with visible pleural line",
            "moderate pneumothorax with collapse of the lung",
            "tension pneumothorax with mediastinal shift",
        ),
        "fracture": (
            "acute rib fracture",
            "old healed rib fractures",
            "displaced fracture of a left rib",
            "fracture of the clavicle",
            "multiple right rib fractures",
        ),
        "nodule": (
            "small pulmonary nodule",
            "nodule in the right upper lobe",
            "rounded nodular opacity in the left lung",
            "multiple pulmonary nodules",
            "calcified nodule",
        ),
        "covid 19": (
            "bilateral peripheral ground glass opacities",
            "diffuse patchy opacities in both lungs",
            "peripheral airspace opacities of viral pneumonia",
            "bilateral lower zone ground glass opacification",
            "multifocal bilateral opacities",
        ),
        "normal": (
            "no acute cardiopulmonary abnormality",
            "the lungs are clear",
            "normal heart size and clear lungs",
            "no effusion or pneumothorax",
            "normal chest radiograph",
        ),
    }
)
_OTHER_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "effusion": "pleural effusion",
        "oedema": "edema",
        "pulmonary edema": "edema",
        "covid": "covid 19",
        "covid19": "covid 19",
        "no finding": "normal",
        "healthy": "normal",
        "enlarged heart": "cardiomegaly",
        "rib fracture": "fracture",
        "lung nodule": "nodule",
    }
)


def choose_prompts(classes: Sequence[str], file: str = "") -> dict[str, tuple[str, ...]]:
    """Choose the prompts of each class: from a file, else the built-in ones of chest findings.

    Parameters
    ----------
    classes
        Labels of the scans.
    file
        TOML or JSON: a list of prompts under the name of each class.

    Raises
    ------
    OptionError
        The file cannot be read, or a class has no prompts.

    >>> choose_prompts(["Oedema"])["Oedema"][0]
    'mild pulmonary edema'
    """
    told = _read(file) if file else {}
    chosen, without = {}, []
    for name in classes:
        plain = plain_words(name.replace("_", " "))
        prompts = told.get(name) if file else FINDINGS.get(_OTHER_NAMES.get(plain, plain))
        cleaned = tuple(filter(None, map(plain_words, prompts or ())))
        if cleaned:
            chosen[name] = cleaned
        else:
            without.append(name)
    if without:
        line = f'{json.dumps(without[0])} = ["a sentence of such a report", "another one"]'
        where = file or "the built-in list of findings"
        raise OptionError(
            f"{where} has no prompts for the class{'es' if len(without) > 1 else ''} {', '.join(without)}",
            f"Write a line into {file}: {line}"
            if file
            else f"Give --prompts FILE.toml with a line for each class: {line}",
        )
    return chosen


def _read(file: str) -> dict[str, list[str]]:
    path = Path(file)
    try:
        text = path.read_text(encoding="utf-8")
        told = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except OSError as fault:
        raise OptionError(
            f"--prompts {file} cannot be read ({fault.strerror or fault})", "Correct the path."
        ) from fault
    except ValueError as fault:
        raise OptionError(
            f"--prompts {file} is no {'JSON' if path.suffix.lower() == '.json' else 'TOML'} ({fault})",
            'Write a line for each class: "pleural effusion" = ["small left pleural effusion"]',
        ) from fault
    lists = isinstance(told, dict) and all(
        isinstance(each, list) and all(isinstance(one, str) for one in each)
        for each in told.values()
    )
    if not lists:
        raise OptionError(
            f"--prompts {file} does not hold a list of sentences for each class",
            'Write a line for each class: "pleural effusion" = ["small left pleural effusion"]',
        )
    return dict(told)
