"""The outcome of a comparison in one sentence, which may be that there is no significant gain."""

from __future__ import annotations

from collections.abc import Mapping

from unlabeled.benchmark.statistics import Cell, Comparison, Difference, Fraction

ALPHA = 0.05


def verdict(comparison: Comparison, names: Mapping[str, str] | None = None) -> str:
    """Say in one sentence what the comparison found.

    Parameters
    ----------
    comparison
        From `compare_scores`.
    names
        Titles of methods by slug; without one, the slug is shown.

    Returns
    -------
    str
        Gains, "no significant gain", or harm; significant means p below 0.05 after Holm's correction.
    """
    names = names or {}
    tested = [cell for cell in comparison.cells if cell.difference]
    if not tested:
        return (
            f"Nothing was compared with {comparison.baseline}, so nothing can be said about a gain."
        )
    metric = comparison.metric
    gains = [cell for cell in tested if outcome(cell, comparison) == "gain"]
    harms = [cell for cell in tested if outcome(cell, comparison) == "harm"]
    methods = list(dict.fromkeys(cell.method for cell in tested))
    if not gains:
        who = names.get(methods[0], methods[0]) if len(methods) == 1 else "any of the methods"
        best = max(tested, key=lambda cell: _goodness(cell, comparison))
        sentence = (
            f"No significant gain: pretraining with {who} did not measurably improve {metric} over training from "
            f"scratch; the best difference was {_describe(best, metric)}"
        )
    else:
        best = max(gains, key=lambda cell: _goodness(cell, comparison))
        who = names.get(best.method, best.method)
        sentence = f"Pretraining with {who} improved {metric} by {_describe(best, metric)}"
        if len(tested) > 1:
            sentence += f"; {len(gains)} of {len(tested)} comparisons with scratch showed a gain"
    if harms:
        sentence += f"; {len(harms)} of {len(tested)} were significantly worse than scratch"
    return sentence + "."


def outcome(cell: Cell, comparison: Comparison) -> str:
    """Judge one cell: ``gain``, ``harm``, ``none`` (no significant difference), or ``baseline``."""
    if cell.difference is None:
        return "baseline"
    if cell.difference.p_holm >= ALPHA:
        return "none"
    return "gain" if _goodness(cell, comparison) > 0 else "harm"


def fraction_text(fraction: Fraction) -> str:
    """Name a label fraction.

    >>> fraction_text(0.05), fraction_text(1.0), fraction_text(4), fraction_text(1)
    ('5 % of the labels', 'all labels', '4 labelled subjects', '1 labelled subject')
    """
    if isinstance(fraction, int):
        return f"{fraction} labelled subject{'' if fraction == 1 else 's'}"
    return "all labels" if fraction == 1.0 else f"{fraction * 100:.3g} % of the labels"


def p_text(p: float) -> str:
    """Write a p value.

    >>> p_text(0.00004), p_text(0.0321), p_text(0.8)
    ('< 0.001', '0.032', '0.80')
    """
    if p < 0.001:
        return "< 0.001"
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def signed(value: float) -> str:
    """Write a difference with its sign and a true minus.

    >>> signed(0.0412), signed(-0.0412), signed(float("-inf"))
    ('+0.041', '−0.041', '−∞')
    """
    text = f"{value:+.3f}".replace("inf", "\N{INFINITY}")
    return text.replace("-", "\N{MINUS SIGN}")


def _goodness(cell: Cell, comparison: Comparison) -> float:
    difference = cell.difference
    mean = difference.interval.mean if difference else 0.0
    return mean if comparison.higher_is_better else -mean


def _describe(cell: Cell, metric: str) -> str:
    difference: Difference | None = cell.difference
    if difference is None:
        return ""
    interval = difference.interval
    p = p_text(difference.p_holm)
    return (
        f"{signed(interval.mean)} with {fraction_text(cell.label_fraction)} "
        f"(95 % interval {signed(interval.low)} to {signed(interval.high)}, "
        f"p {p if p.startswith('<') else '= ' + p})"
    )
