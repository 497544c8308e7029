"""Trunk merges: rules that merge the experts' non-FFN parameters into the mix's trunk.

Each has one file here and one row in composer/variants.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, ValidationError

from composer.trunks.base import NamedMerge, TrunkMerge
from composer.variants import TRUNK_MERGES

__all__ = ["NamedMerge", "TrunkMerge", "TrunkMergeChoice", "chosen_merge"]


def chosen_merge(choice: Any) -> NamedMerge:
    """Return the merge of a name, or of a mapping with `method` and parameters; a merge is returned unchanged.

    Raises ValueError for an unknown merge and for wrong parameters.
    """
    if isinstance(choice, NamedMerge):
        return choice
    # The name alone suffices for a method that needs no parameters.
    values = {"method": choice} if isinstance(choice, str) else choice
    if not isinstance(values, Mapping) or not isinstance(values.get("method"), str):
        raise ValueError(f"expected the name of a trunk merge, or a mapping with `method`; got {choice!r}")
    merge: type[NamedMerge] = TRUNK_MERGES.find(values["method"]).load()
    try:
        return merge.model_validate(values)
    except ValidationError as error:
        wrong = (
            "{}: {}".format(".".join(map(str, (values["method"], *e["loc"]))), e["msg"])
            for e in error.errors()
        )
        raise ValueError("; ".join(wrong)) from error


TrunkMergeChoice = Annotated[SerializeAsAny[NamedMerge], BeforeValidator(chosen_merge)]
