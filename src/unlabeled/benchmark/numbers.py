"""How a page writes numbers: every score with the same decimals, true minus signs, readable spans of time."""

from __future__ import annotations

import math

DIGITS = 3  # decimals of every score


def number_text(value: float, digits: int = DIGITS) -> str:
    """Write a score with as many decimals as all others, and a true minus.

    >>> number_text(0.5), number_text(-2.25), number_text(math.inf), number_text(math.nan)
    ('0.500', '−2.250', '∞', '–')
    """
    if math.isnan(value):
        return "\N{EN DASH}"
    if math.isinf(value):
        return "\N{INFINITY}" if value > 0 else "\N{MINUS SIGN}\N{INFINITY}"
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def duration_text(seconds: float) -> str:
    """Write a time span.

    >>> duration_text(0.4), duration_text(75), duration_text(5400)
    ('0.4 s', '1 min 15 s', '1 h 30 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
