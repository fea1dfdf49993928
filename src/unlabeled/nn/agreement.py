"""Whether weights and data agree: what an encoder was pretrained on against what it is about to see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from unlabeled.errors import RunError

#: Ratio of voxel edges from which spacing is mentioned, and from which it is refused.
NOTED, REFUSED = 1.25, 2.0


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One fact in which weights and data differ, and how grave that is."""

    severity: Literal["fault", "warning"]
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return self.text


def agreement(metadata: Mapping[str, Any], facts: Mapping[str, Any]) -> list[Disagreement]:
    """Compare what an encoder was pretrained on with the data at hand.

    Only keys that both sides give, and not as None, are compared.

    Parameters
    ----------
    metadata
        As `read_weights` returns it; empty for weights of other tools, about which nothing is known.
    facts
        Of the data and the network that is built: ``encoder``, ``dims``, ``channels``, ``spacing`` [mm] along the axes of
        RAS, ``slice_spacing`` [mm] of pixels and then of slices, which is what matters to 2D weights, ``orientation``, ``intensity`` (`IntensityRule.as_metadata`), ``modality`` (what the window of another modality
        says does not matter).

    Returns
    -------
    list of Disagreement
        Faults are another encoder, orientation or intensity rule, 3D weights for 2D data, and voxels whose edges
        differ at least twofold; warnings are smaller differences of spacing, other channels and 2D weights for 3D data
        (both are adapted), and metadata that is absent altogether.
    """
    if not metadata:
        return [
            Disagreement(
                "warning",
                "the weights do not say what they were trained on: orientation, spacing and intensity are unchecked",
            )
        ]
    both = {
        key: (metadata[key], facts[key])
        for key in ("encoder", "dims", "orientation", "intensity", "channels", "spacing")
        if metadata.get(key) is not None and facts.get(key) is not None
    }
    found: list[Disagreement] = []
    for key, (theirs, ours) in both.items():
        if key == "spacing":
            edges = metadata.get("slice_spacing"), facts.get("slice_spacing")
            flat = metadata.get("dims") == 2 and None not in edges
            found.extend(_spacing(*(edges if flat else (theirs, ours)), axes=ours))
        elif key == "intensity":
            found.extend(_intensity(theirs, ours, facts.get("modality")))
        elif theirs != ours:
            found.append(_differ(key, theirs, ours))
    return found


def require_agreement(metadata: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """Refuse weights that disagree with the data, and give the warnings otherwise.

    Raises
    ------
    RunError
        When `agreement` finds faults; all are named.
    """
    found = agreement(metadata, facts)
    faults = [one for one in found if one.severity == "fault"]
    if faults:
        raise RunError(
            "the weights do not agree with the data: " + "; ".join(one.text for one in faults),
            " ".join(dict.fromkeys(one.remedy for one in faults if one.remedy)),
        )
    return [one.text for one in found]


def _differ(key: str, theirs: Any, ours: Any) -> Disagreement:
    if key == "encoder":
        return Disagreement(
            "fault",
            f"they belong to {theirs}, and {ours} was asked for",
            f"Give --encoder {theirs}.",
        )
    if key == "orientation":
        return Disagreement(
            "fault",
            f"they were trained on arrays in {theirs} order, and these are in {ours}",
            "Read the scans as NIfTI or DICOM, which know their orientation.",
        )
    if key == "channels":
        return Disagreement(
            "warning",
            f"they saw {theirs} channels, and the data have {ours}: the first layer is adapted",
        )
    if theirs > ours:
        return Disagreement(
            "fault",
            f"they are {theirs}D, and the data are {ours}D",
            f"Give --dims {theirs}, or 2D weights.",
        )
    return Disagreement(
        "warning", f"they are {theirs}D, and the data are {ours}D: kernels are inflated"
    )


def _spacing(theirs: Any, ours: Any, axes: Any) -> list[Disagreement]:
    """Compare edges; `axes` are ours in the order in which a person types them, that of RAS."""
    if len(theirs) != len(ours):
        return []
    worst = max(max(a / b, b / a) for a, b in zip(theirs, ours, strict=True))
    if worst < NOTED:
        return []
    text = f"they saw voxels of {_typed(theirs)} mm, and the data have {_typed(ours)} mm"
    across = max(axis for axis, edge in enumerate(axes) if edge == ours[-1])
    *first, last = theirs
    remedy = f"Give --spacing {_typed([*first[:across], last, *first[across:]])}."
    return [Disagreement("fault" if worst >= REFUSED else "warning", text, remedy)]


def _typed(edges: Any) -> str:
    return " ".join(f"{edge:g}" for edge in edges)


def _intensity(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], modality: Any
) -> list[Disagreement]:
    kinds = set() if not modality else {modality} if isinstance(modality, str) else set(modality)
    idle = "percentiles" if kinds == {"CT"} else "ct" if kinds and "CT" not in kinds else None
    differing = [
        f"{key} {_plain(theirs[key])} against {_plain(ours[key])}"
        for key in sorted((theirs.keys() & ours.keys()) - {idle})
        if _plain(theirs[key]) != _plain(ours[key])
    ]
    if not differing:
        return []
    return [
        Disagreement(
            "fault",
            f"their intensity rule is another: {', '.join(differing)}",
            "Use the same rule: weights remember it, so leave the intensity options out.",
        )
    ]


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " to ".join(f"{number:g}" for number in value)
    return str(value)
