"""Contribution: publish a seed or an expert from a checkpoint folder, a LoRA adapter or a hub repository."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

from composer.chat.format import chat_format
from composer.experts.adapter import is_adapter
from composer.experts.dequantize import float_folder
from composer.experts.dry_run import check_runs
from composer.experts.lora import contribute_adapter
from composer.progress import Progress, silent
from registry.catalog import queries
from registry.home import Registry
from registry.intake import intake, sources
from registry.paths import PathLike, Paths, as_path, as_paths
from registry.records import ExpertRecord, SeedRecord


def add_seed(
    registry: Registry,
    name: str,
    source: PathLike,
    *,
    license: str,
    description: str = "",
    data: Paths = (),
    text_column: str | None = None,
    progress: Progress = silent,
) -> SeedRecord:
    """Publish a seed from a checkpoint folder or "hf:owner/name", after a dry run of its model and tokenizer.

    Raises HubError, and the errors of `registry.intake.intake.add_seed` and `composer.experts.dry_run.check_runs`.
    """
    with ExitStack() as stack:
        checkpoint = stack.enter_context(
            sources.opened(registry, os.fspath(source), seed=None, progress=progress)
        )
        folder = float_folder(registry, checkpoint.folder, stack)
        chat = stack.enter_context(chat_format(registry.blobs, {}, folder))
        return intake.add_seed(
            registry,
            name,
            folder,
            license=license,
            description=description,
            data=as_paths(data),
            text_column=text_column,
            chat=chat,
            check=check_runs,
            origin=checkpoint.provenance.get("source"),
            progress=progress,
        )


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
    `text_column` is the column of the text in tables. Conversations are rendered by the chat template of the expert's
    folder, else by the seed's. A `draft` is found only by its version
    until it is published.
    Raises HubError, and the errors of `registry.intake.intake.contribute` and `composer.experts.lora.place_adapter`.
    """
    base = queries.get_seed(registry, seed)
    with ExitStack() as stack:
        checkpoint = stack.enter_context(
            sources.opened(registry, os.fspath(source), seed=seed, progress=progress)
        )
        folder = float_folder(registry, checkpoint.folder, stack)
        chat = stack.enter_context(chat_format(registry.blobs, base.files, folder))
        converted = {} if folder == checkpoint.folder else {"dequantized": "to bfloat16"}
        adapter = partial(contribute_adapter, allow_other_base=allow_other_base)
        publish = adapter if is_adapter(folder) else intake.contribute
        return publish(
            registry,
            name,
            folder,
            seed=seed,
            license=license,
            data=as_paths(data),
            held_out=as_paths(held_out),
            text_column=text_column,
            chat=chat,
            embedding=None if embedding is None else as_path(embedding),
            description=description,
            provenance={**(provenance or {}), **checkpoint.provenance, **converted},
            allow_unchanged=allow_unchanged,
            allow_unrelated=allow_unrelated,
            draft=draft,
            progress=progress,
        )
