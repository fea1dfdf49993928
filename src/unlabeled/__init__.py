"""Self-supervised pretraining on medical images: 28 published methods, one interface, honest comparisons.

>>> from unlabeled import list_methods
>>> "models-genesis" in list_methods()
True
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from unlabeled.benchmark.compare import compare
    from unlabeled.methods._registry import slugs as list_methods
    from unlabeled.nn.weights import load_encoder
    from unlabeled.training.estimate import estimate
    from unlabeled.training.pretrain import pretrain
    from unlabeled.transfer.finetune import finetune
    from unlabeled.transfer.predict import predict
    from unlabeled.transfer.probe import probe

__all__ = [
    "compare",
    "estimate",
    "finetune",
    "list_methods",
    "load_encoder",
    "predict",
    "pretrain",
    "probe",
]

_PLACES = {
    "compare": ("unlabeled.benchmark.compare", "compare"),
    "estimate": ("unlabeled.training.estimate", "estimate"),
    "finetune": ("unlabeled.transfer.finetune", "finetune"),
    "list_methods": ("unlabeled.methods._registry", "slugs"),
    "load_encoder": ("unlabeled.nn.weights", "load_encoder"),
    "predict": ("unlabeled.transfer.predict", "predict"),
    "pretrain": ("unlabeled.training.pretrain", "pretrain"),
    "probe": ("unlabeled.transfer.probe", "probe"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that importing the package costs nothing."""
    if name in _PLACES:
        module, attribute = _PLACES[name]
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
