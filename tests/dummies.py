"""A router, a trunk merge, an export format and a model family as a contributor would add them: rows and their code."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

import numpy as np

from composer import variants
from composer.formats.plan import Format, Plan
from composer.mix.opening import Manifest
from composer.trunks.base import NamedMerge
from registry.blobs import BlobStore
from registry.checkpoints import family_table


class LastExpert(NamedMerge):
    """The last expert's trunk."""

    elementwise: ClassVar[bool] = True
    method: Literal["dummy_merge"] = "dummy_merge"

    def __call__(self, seed: np.ndarray, experts: Iterable[np.ndarray]) -> np.ndarray:
        *_, last = experts
        return last


def plan(blobs: BlobStore, manifest: Manifest, dtype: str) -> Plan:
    """A folder without tensors."""
    return Plan(config={"model_type": "dummy"}, tensors={}, dtype=dtype)


FORMAT = Format(plan)


def rows() -> Mapping[str, variants.Variant]:
    """Rows by table."""
    return {
        "ROUTERS": variants.RouterVariant(
            "dummy_router", "Dummy router", "Routes as a test asks.", "dummy_router:DummyRouter"
        ),
        "TRUNK_MERGES": variants.MergeVariant(
            "dummy_merge", "Dummy merge", "Takes the last expert's trunk.", "dummies:LastExpert"
        ),
        "EXPORT_FORMATS": variants.FormatVariant(
            "dummy_format", "Dummy format", "Writes a folder without tensors.", "dummies:FORMAT"
        ),
    }


def install() -> None:
    """Add the rows, for use in a separate process."""
    for table, row in rows().items():
        getattr(variants, table)[row.name] = row
    family_table.FAMILIES["dummy_family"] = dummy_family()  # type: ignore[index]


def dummy_family() -> family_table.Family:
    """Llama under another name."""
    return dataclasses.replace(family_table.FAMILIES["llama"], model_type="dummy_family")
