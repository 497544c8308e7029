"""Trunk merges: how the experts' non-FFN parameters become the mix's.

One file each, one row each in composer/variants.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, ValidationError

from composer.trunks.base import NamedMerge, TrunkMerge
from composer.variants import TRUNK_MERGES

__all__ = ["NamedMerge", "TrunkMerge", "TrunkMergeChoice", "chosen_merge"]


def chosen_merge(choice: Any) -> NamedMerge:
    """The merge of a name, or of a mapping with its `method` and its parameters; a merge is returned as it is.

    Raises ValueError for a merge that does not exist and for wrong parameters.
    """
    if isinstance(choice, NamedMerge):
        return choice
    # A method that needs no parameters may be written as its name alone.
    values = {"method": choice} if isinstance(choice, str) else choice
    if not isinstance(values, Mapping) or not isinstance(values.get("method"), str):
        raise ValueError(f"a trunk merge is a name, or a mapping with its name as `method`; got {choice!r}")
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
