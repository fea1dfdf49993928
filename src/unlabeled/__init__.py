"""Self-supervised pretraining on medical images: 28 published methods, one interface, honest comparisons."""

from __future__ import annotations

__version__ = "0.1.0"
