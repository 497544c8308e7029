"""Push: an expert or a mix as a repository of the Hugging Face Hub, with a card and its digests.

An expert is written as the whole checkpoint that it was, with equal tensors. So contributing the repository again
gives the same blobs.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any, Literal

import yaml

from composer.formats import export
from composer.formats.folder import write_json, write_tensors
from composer.mix.dense import dense_blobs
from composer.mix.lock import lock_expert
from composer.mix.opening import find_mix
from composer.progress import Progress, silent
from composer.tensors.rows import Stored
from composer.tensors.stream import stored_tensors
from registry.catalog import queries
from registry.catalog.lifecycle import get_readme
from registry.errors import IntegrityError, NotFoundError
from registry.home import Registry
from registry.hub_licenses import tag_of
from registry.intake.hub_upload import Pushed, repository_of, upload
from registry.records import ExpertRecord, SeedRecord
from registry.work_folders import occupied, work_folder

DIGESTS_FILE = "nexusmix.json"


def push(
    registry: Registry,
    ref: str,
    target: str,
    *,
    kind: Literal["expert", "mix"] | None = None,
    private: bool = False,
    format: str = "nexus",
    dtype: str | None = None,
    progress: Progress = silent,
) -> Pushed:
    """Upload an expert or a mix to `hf:owner/name`; `format` and `dtype` are the mix's.

    Without a `kind`, it is the expert, or the mix if no expert has this name.

    Raises AccessError, InvalidInputError, NotFoundError, HubError, IntegrityError (a purged or damaged expert), and the
    errors of `export`.
    """
    registry.actor.require("push")
    repository = repository_of(target)
    expert = None if kind == "mix" else _expert_unless_mix(registry, ref)
    with occupied(registry, work_folder(registry, f"push-{uuid.uuid4().hex[:12]}")) as work:
        folder = work / "files"
        if expert is not None:
            folder.mkdir()
            _write_expert(registry, expert, folder, progress)
            name, digest = expert.ref, expert.difference or expert.ffn
        else:
            record, manifest = find_mix(registry, ref)
            export(registry, record.ref, folder, format=format, dtype=dtype, progress=progress)
            digests = {"manifest": record.manifest, "lock": record.lock, "experts": list(record.experts)}
            write_json(folder / DIGESTS_FILE, {"mix": record.ref, "seed": record.seed, **digests})
            (folder / "nexusmix.lock.json").write_bytes(registry.blobs.read_bytes(manifest.lock))
            name, digest = record.ref, record.manifest
        progress("uploading", 0, 1)
        pushed = upload(registry, folder, repository, ref=name, digest=digest, private=private)
        progress("uploading", 1, 1)
    return pushed


def _expert_unless_mix(registry: Registry, ref: str) -> ExpertRecord | None:
    try:
        return queries.get_expert(registry, ref)
    except NotFoundError as error:
        try:
            queries.get_mix(registry, ref)
        except NotFoundError:
            raise error from None
        return None


def _write_expert(registry: Registry, expert: ExpertRecord, folder: Path, progress: Progress) -> None:
    """Write the expert as the checkpoint of a dense model."""
    if expert.purged_at is not None:
        raise IntegrityError(f"the bytes of {expert.ref} were purged, so it cannot be pushed")
    seed, blobs = queries.get_seed(registry, expert.seed), registry.blobs
    for name, digest in seed.files.items():
        (folder / name).write_bytes(blobs.read_bytes(digest))
    if expert.chat_template is not None:
        (folder / "chat_template.jinja").write_bytes(blobs.read_bytes(expert.chat_template))
    _fit_width(folder / "config.json", expert)
    infos = {
        name: info
        for blob in dense_blobs(blobs, lock_expert(expert))
        for name, info in stored_tensors(blobs, blob).items()
    }
    tensors = {name: Stored(info) for name, info in infos.items()}
    write_tensors(folder, tensors, {name: info.dtype for name, info in infos.items()}, progress=progress)
    write_json(folder / DIGESTS_FILE, _digests(expert, seed))
    (folder / "README.md").write_text(_card(expert, get_readme(registry, expert.ref)), encoding="utf-8")


def _fit_width(config: Path, expert: ExpertRecord) -> None:
    """Write the expert's FFN width into the configuration, if the seed's differs."""
    values = json.loads(config.read_bytes())
    width = values.get("intermediate_size")
    if isinstance(width, int) and width != expert.ffn_width:
        write_json(config, {**values, "intermediate_size": expert.ffn_width})


def _digests(expert: ExpertRecord, seed: SeedRecord) -> dict[str, Any]:
    return {
        "expert": expert.ref,
        "ffn": expert.ffn,
        "trunk": expert.trunk,
        "difference": expert.difference,
        "seed": {"name": seed.name, "ffn": seed.ffn, "trunk": seed.trunk},
        "domain": {
            "embedder": str(expert.embedding.embedder),
            "sample_sha256": expert.embedding.sample_sha256,
        },
    }


def _card(expert: ExpertRecord, readme: str) -> str:
    """Return the card: metadata of the hub, the description, the README and the digests."""
    tag = tag_of(expert.license)
    data: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation", "license": tag}
    if tag == "other":
        data["license_name"] = expert.license
    data["tags"] = list(dict.fromkeys(["nexusmix", *expert.tags]))
    head = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    authors = f"Authors: {', '.join(expert.authors)}." if expert.authors else ""
    facts = [f"Fine-tuned from the seed {expert.seed}.", authors]
    body = [expert.description, " ".join(filter(None, facts)), readme, f"Digests: see `{DIGESTS_FILE}`."]
    return f"---\n{head}---\n\n# {expert.ref}\n\n" + "\n\n".join(filter(None, body)) + "\n"
