"""Contribution: publish an expert from a checkpoint folder, a LoRA adapter or a hub repository."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from composer.experts.adapter import is_adapter
from composer.experts.lora import contribute_adapter
from composer.progress import Progress, silent
from registry.home import Registry
from registry.intake import intake, sources
from registry.paths import PathLike, Paths, as_path, as_paths
from registry.records import ExpertRecord


def contribute(
    registry: Registry,
    name: str,
    source: PathLike,
    *,
    seed: str,
    license: str,
    data: Paths = (),
    held_out: Paths = (),
    text_column: str | None = None,
    embedding: PathLike | None = None,
    description: str = "",
    provenance: Mapping[str, Any] | None = None,
    allow_unchanged: bool = False,
    allow_unrelated: bool = False,
    allow_other_base: bool = False,
    draft: bool = False,
    progress: Progress = silent,
) -> ExpertRecord:
    """Publish the next version of an expert from a checkpoint folder, a LoRA adapter, or "hf:owner/name".

    The domain comes from text (`data`) or, for private text, from an `embedding` file that `nexusmix embed` wrote.
    `text_column` is the column of the text in tables. A `draft` is found only by its version until it is published.
    Raises HubError, and the errors of `registry.intake.intake.contribute` and `composer.experts.lora.place_adapter`.
    """
    with sources.opened(registry, os.fspath(source), seed=seed, progress=progress) as checkpoint:
        adapter = partial(contribute_adapter, allow_other_base=allow_other_base)
        publish = adapter if is_adapter(checkpoint.folder) else intake.contribute
        return publish(
            registry,
            name,
            checkpoint.folder,
            seed=seed,
            license=license,
            data=as_paths(data),
            held_out=as_paths(held_out),
            text_column=text_column,
            embedding=None if embedding is None else as_path(embedding),
            description=description,
            provenance={**(provenance or {}), **checkpoint.provenance},
            allow_unchanged=allow_unchanged,
            allow_unrelated=allow_unrelated,
            draft=draft,
            progress=progress,
        )
