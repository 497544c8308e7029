"""Deletion of mixes, and of seeds that nothing was made from. Garbage collection removes the blobs afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from registry.access import record
from registry.catalog.gc import referred
from registry.database.engine import lock_writers
from registry.database.rows import find_mix, find_seed
from registry.database.schema import Blob, Evaluation, Expert, Mix, MixBlob, Run, Seed, SeedFile
from registry.errors import ConflictError, InvalidInputError
from registry.home import Registry
from registry.names import parse_ref
from registry.queue.runs import LIVE


@dataclass(frozen=True)
class Deleted:
    """The deleted mix or seed, and the size in bytes of the blobs that garbage collection may now remove."""

    name: str
    freed: int


def delete_mix(registry: Registry, ref: str, *, dry_run: bool = False) -> Deleted:
    """Delete one version of a mix with its evaluations; `dry_run` only reports the size that would be freed.

    The version is never reused. Its manifest and lock, a few kB, stay: composing the lock again gives the same
    bytes. Its other blobs stay until garbage collection, which keeps those that another row refers to.

    Raises InvalidInputError without a version, NotFoundError, and ConflictError while a live run or a mix that
    was extended from it needs it.
    """
    if parse_ref(ref).version is None:
        raise InvalidInputError(f"{ref!a} has no version: name the version to delete, such as {ref}@1")
    with registry.session() as session:
        lock_writers(session)
        mix = find_mix(session, ref)
        name = f"{mix.name}@{mix.version}"
        _refuse_while_needed(session, mix, name)
        own = set(session.scalars(select(MixBlob.digest).where(MixBlob.mix_id == mix.id)))
        session.execute(delete(MixBlob).where(MixBlob.mix_id == mix.id))
        session.execute(delete(Evaluation).where(Evaluation.mix_id == mix.id))
        mix.deleted_at = datetime.now(UTC)
        record(session, registry.actor, "delete mix", name, mix.manifest)
        session.flush()
        return _deleted(session, name, own, dry_run)


def delete_seed(registry: Registry, name: str, *, dry_run: bool = False) -> Deleted:
    """Delete a seed without experts; its name can be used again. `dry_run` only reports the size that would be freed.

    Raises NotFoundError, and ConflictError while an expert, a mix or a live run refers to it. A withdrawn expert and a
    deleted mix refer to their seed too.
    """
    with registry.session() as session:
        lock_writers(session)
        seed = find_seed(session, name)
        _refuse_used_seed(session, seed)
        roles = (seed.ffn, seed.trunk, seed.sample, seed.held_out, seed.chunk_vectors)
        own = {digest for digest in (*roles, *(file.digest for file in seed.files)) if digest is not None}
        record(session, registry.actor, "delete seed", seed.name, seed.ffn)
        session.execute(delete(SeedFile).where(SeedFile.seed_id == seed.id))
        session.execute(delete(Seed).where(Seed.id == seed.id))
        session.flush()
        return _deleted(session, seed.name, own, dry_run)


def _deleted(session: Session, name: str, own: set[str], dry_run: bool) -> Deleted:
    unneeded = own - referred(session)
    freed = session.scalar(select(func.sum(Blob.size)).where(Blob.digest.in_(unneeded))) or 0
    if dry_run:
        session.rollback()
    return Deleted(name, int(freed))


def _refuse_used_seed(session: Session, seed: Seed) -> None:
    expert = session.scalar(select(Expert).where(Expert.seed_id == seed.id).order_by(Expert.id).limit(1))
    mix = session.scalar(select(Mix).where(Mix.seed_id == seed.id).order_by(Mix.id).limit(1))
    made = expert or mix
    if made is not None:
        raise ConflictError(
            f"{made.name}@{made.version} was made from the seed {seed.name}, so it stays: a record of every published "
            "version needs its seed"
        )
    for run in session.scalars(select(Run).where(Run.state.in_(LIVE)).order_by(Run.id)):
        if seed.name in (run.request.get("seed"), run.request.get("recipe", {}).get("seed")):
            raise ConflictError(
                f"run {run.id} ({run.kind}) uses {seed.name}: wait until it ends, or cancel it"
            )


def mixes_built_on(registry: Registry, ref: str) -> list[str]:
    """Return the `name@version` of mixes that were extended from a mix, so that their locks need it.

    A mix that was composed again without an expert names its parent too, but needs nothing of it. Raises NotFoundError.
    """
    with registry.session(read_only=True) as session:
        return _built_on(session, find_mix(session, ref))


def _built_on(session: Session, mix: Mix) -> list[str]:
    # Only an extension's lock pins its parent, by the digest of the parent's manifest.
    pins = Mix.blobs.any(MixBlob.digest == mix.manifest)
    made = select(Mix).where(Mix.parent_id == mix.id, Mix.deleted_at.is_(None), pins).order_by(Mix.id)
    return [f"{child.name}@{child.version}" for child in session.scalars(made)]


def _refuse_while_needed(session: Session, mix: Mix, name: str) -> None:
    children = _built_on(session, mix)
    if children:
        raise ConflictError(f"{', '.join(children)} was made from {name}: delete that first")
    for run in session.scalars(select(Run).where(Run.state.in_(LIVE)).order_by(Run.id)):
        if name == run.request.get("mix") or name in run.request.get("against", ()):
            raise ConflictError(f"run {run.id} ({run.kind}) uses {name}: wait until it ends, or cancel it")
