"""Copies of experts and mixes between registries: the same blobs under the same digests, and a record of the origin."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import fields
from typing import Any

from sqlalchemy import select

from registry.blobs import CHUNK_BYTES
from registry.catalog.gc import referred
from registry.catalog.lifecycle import describe, get_readme
from registry.catalog.publish import publish_expert, publish_mix, publish_seed, record_evaluation
from registry.catalog.queries import get_expert, get_mix, get_seed
from registry.database.rows import find_mix
from registry.database.schema import DatabaseId, Expert, Mix
from registry.errors import ConflictError, IntegrityError, NotFoundError
from registry.home import Registry
from registry.names import name_key
from registry.records import Digest, ExpertRecord, MixRecord, NewExpert, SeedRecord

Progress = Callable[[str, int, int], None]


def copy_expert(
    source: Registry, target: Registry, ref: str, *, progress: Progress | None = None
) -> ExpertRecord:
    """Publish an expert of one registry in another, with its seed if that is missing there.

    Blobs that the target has are not copied again. If the target has a version with the same weights, it is returned.
    Otherwise the version is the target's next one; the provenance contains the origin.

    Raises NotFoundError, ConflictError (the target has another seed of that name), IntegrityError (a damaged, withdrawn
    or purged expert), AccessError, StorageError.
    """
    return _copy_expert(source, target, get_expert(source, ref), progress)


def copy_mix(source: Registry, target: Registry, ref: str, *, progress: Progress | None = None) -> MixRecord:
    """Publish a mix of one registry in another, with its seed, its experts, its newest evaluation, and its parent.

    Manifest and lock are copied byte by byte, and they name versions of experts. So each expert must get the version
    that it has here. If the target has a version of the name with the same manifest, it is returned. A parent that
    was deleted is left out.

    Raises NotFoundError; ConflictError if the target has another seed of that name, or another expert or a later one
    where the mix names a version; IntegrityError if an expert is withdrawn or damaged; AccessError; StorageError.
    """
    target.actor.require("publish mix")
    mix = get_mix(source, ref)
    found = _same_manifest(target, mix)
    if found is not None:
        return found
    parent = None
    if mix.parent is not None:
        with suppress(NotFoundError):
            parent = copy_mix(source, target, mix.parent, progress=progress).ref
    for member in mix.experts:
        _copy_expert(source, target, get_expert(source, member), progress, keep_version=True)
    with source.session(read_only=True) as session:
        blobs = [blob.digest for blob in find_mix(session, mix.ref).blobs]
    _copy_blobs(source, target, [mix.manifest, mix.lock, *blobs], progress)
    parts: dict[str, Any] = {"manifest": mix.manifest, "lock": mix.lock, "blobs": blobs, "parent": parent}
    made = publish_mix(target, mix.name, seed=mix.seed, experts=mix.experts, **parts)
    if mix.evaluation is not None:
        record_evaluation(target, made.ref, mix.evaluation)
    return get_mix(target, made.ref)


def _copy_expert(
    source: Registry,
    target: Registry,
    expert: ExpertRecord,
    progress: Progress | None,
    *,
    keep_version: bool = False,
) -> ExpertRecord:
    target.actor.require("publish expert")
    if expert.withdrawn is not None:
        raise IntegrityError(f"{expert.ref} is {expert.state}, so it cannot be copied")
    seed = get_seed(source, expert.seed)
    has_seed = _has_seed(target, seed)
    found = _same_weights(target, expert, expert.version if keep_version else None)
    if found is not None:
        return found
    if not has_seed:
        _copy_seed(source, target, seed, progress)
    digests = (expert.ffn, expert.trunk, expert.sample, expert.held_out, expert.chunk_vectors, expert.profile)
    _copy_blobs(source, target, [*digests, expert.difference, expert.chat_template], progress)
    values = {field.name: getattr(expert, field.name) for field in fields(NewExpert)}
    origin = {"registry": _id_of(source), "expert": expert.ref}
    new = NewExpert(**{**values, "provenance": {**expert.provenance, "copied_from": origin}})
    made = publish_expert(target, new, version=expert.version if keep_version else None)
    readme = get_readme(source, expert.ref)
    if expert.tags or expert.authors or readme:
        made = describe(target, made.ref, tags=expert.tags, authors=expert.authors, readme=readme or None)
    return made


def _has_seed(target: Registry, seed: SeedRecord) -> bool:
    """Return whether the target has the seed. Raises ConflictError if it has another one of that name."""
    try:
        there = get_seed(target, seed.name)
    except NotFoundError:
        return False
    if (there.ffn, there.trunk, there.files) != (seed.ffn, seed.trunk, seed.files):
        raise ConflictError(
            f"the other registry has another seed '{seed.name}', with other weights or files, and experts of different "
            "seeds cannot be mixed: add this seed there under another name, and contribute the expert to it"
        )
    return True


def _same_weights(target: Registry, expert: ExpertRecord, version: int | None) -> ExpertRecord | None:
    """Return the target's newest version of the name with the same weights, or this version, if it has them."""
    query = (
        select(Expert)
        .where(
            Expert.name_key == name_key(expert.name), Expert.ffn == expert.ffn, Expert.trunk == expert.trunk
        )
        .order_by(Expert.version.desc())
    )
    if version is not None:
        query = query.where(Expert.version == version)
    with target.session(read_only=True) as session:
        rows = [row for row in session.scalars(query) if row.difference == expert.difference]
        ref = f"{rows[0].name}@{rows[0].version}" if rows else None
    return None if ref is None else get_expert(target, ref)


def _same_manifest(target: Registry, mix: MixRecord) -> MixRecord | None:
    query = select(Mix.version).where(
        Mix.name_key == name_key(mix.name), Mix.manifest == mix.manifest, Mix.deleted_at.is_(None)
    )
    with target.session(read_only=True) as session:
        version = session.scalar(query.order_by(Mix.version.desc()).limit(1))
    return None if version is None else get_mix(target, f"{mix.name}@{version}")


def _copy_seed(source: Registry, target: Registry, seed: SeedRecord, progress: Progress | None) -> None:
    parts = (seed.ffn, seed.trunk, seed.sample, seed.held_out, seed.chunk_vectors, *seed.files.values())
    _copy_blobs(source, target, parts, progress)
    values = {field.name: getattr(seed, field.name) for field in fields(seed) if field.name != "created_at"}
    publish_seed(target, **values)


def _copy_blobs(
    source: Registry, target: Registry, digests: Iterable[Digest | None], progress: Progress | None
) -> None:
    """Copy the blobs that the target lacks; each is verified when it is read and hashed when it is written.

    A blob that no row of the target refers to is copied again, since garbage collection may remove it at any time.
    """
    wanted = [digest for digest in dict.fromkeys(digests) if digest is not None]
    with target.session(read_only=True) as session:
        kept = referred(session, wanted)
    missing = [digest for digest in wanted if digest not in kept or not target.blobs.exists(digest)]
    for done, digest in enumerate(missing):
        if progress is not None:
            progress("copying blobs", done, len(missing))
        path = source.blobs.path(digest)
        with path.open("rb") as file, target.blobs.writer(path.stat().st_size) as writer:
            while piece := file.read(CHUNK_BYTES):
                writer.write(piece)
        if writer.digest != digest:
            raise IntegrityError(f"blob {digest} changed while it was copied: try again")
    if progress is not None and missing:
        progress("copying blobs", len(missing), len(missing))


def _id_of(registry: Registry) -> str:
    with registry.session(read_only=True) as session:
        return session.scalar(select(DatabaseId.id)) or ""
