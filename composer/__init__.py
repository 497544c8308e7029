"""The composer, which turns a recipe over registered experts into a trained, extensible Nexus mixture-of-experts.

    from composer import Recipe, compose

Each name below is imported at its first use, so `import composer` loads neither torch nor numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from composer.composition import compose as compose
    from composer.errors import ComposerError as ComposerError
    from composer.evaluation.evaluate import evaluate as evaluate
    from composer.experts.compression import compress as compress
    from composer.experts.contribution import contribute as contribute
    from composer.experts.train import train_expert as train_expert
    from composer.extension import extend as extend
    from composer.extension import remove as remove
    from composer.formats import export as export
    from composer.generation import generate as generate
    from composer.mix.recipe import Recipe as Recipe
    from composer.mix.recipe import Training as Training

_HOMES = {
    "ComposerError": "composer.errors",
    "Recipe": "composer.mix.recipe",
    "Training": "composer.mix.recipe",
    "compose": "composer.composition",
    "compress": "composer.experts.compression",
    "contribute": "composer.experts.contribution",
    "evaluate": "composer.evaluation.evaluate",
    "export": "composer.formats",
    "extend": "composer.extension",
    "generate": "composer.generation",
    "remove": "composer.extension",
    "train_expert": "composer.experts.train",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
