"""Publishing: one transaction assigns the next version, records references to the blobs and commits last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.access import record
from registry.blobs import parse_digest
from registry.checkpoints.low_rank import weight_name
from registry.checkpoints.tensors import read_header
from registry.database.engine import lock_writers
from registry.database.rows import (
    blob_digests,
    expert_record,
    expert_row,
    find_expert,
    find_mix,
    find_seed,
    mix_record,
    seed_record,
)
from registry.database.schema import (
    Blob,
    Evaluation,
    Expert,
    Measurement,
    Mix,
    MixBlob,
    MixExpert,
    Seed,
    SeedFile,
)
from registry.errors import ConflictError, IncompatibleError, IntegrityError, InvalidInputError
from registry.home import Registry
from registry.names import check_name, check_new_name, name_key
from registry.queue.claims import entitle
from registry.records import Digest, ExpertRecord, MixRecord, NewExpert, SeedRecord


def publish_seed(
    registry: Registry,
    *,
    name: str,
    license: str,
    description: str,
    model_type: str,
    config: dict[str, Any],
    dtype: str,
    parameters: int,
    ffn: Digest,
    trunk: Digest,
    files: Mapping[str, Digest],
    sample: Digest | None,
    held_out: Digest | None,
    chunk_vectors: Digest | None,
) -> SeedRecord:
    """Publish a seed whose blobs are in the store.

    Raises ConflictError if the name is taken, because seeds have no versions. Raises IntegrityError if a blob
    is missing.
    """
    stored_name = check_new_name(name)
    with registry.session() as session:
        lock_writers(session)
        taken = session.scalar(select(Seed).where(Seed.name_key == name_key(stored_name)))
        if taken is not None:
            raise ConflictError(
                f"a seed '{taken.name}' already exists, and seeds have no versions: choose another name"
            )
        row = Seed(
            name=stored_name,
            name_key=name_key(stored_name),
            license=license,
            description=description,
            model_type=model_type,
            config=config,
            dtype=dtype,
            parameters=parameters,
            ffn=ffn,
            trunk=trunk,
            sample=sample,
            held_out=held_out,
            chunk_vectors=chunk_vectors,
            files=[SeedFile(filename=filename, digest=files[filename]) for filename in sorted(files)],
        )
        _refer(session, registry, [*blob_digests(row), *files.values()])
        session.add(row)
        session.flush()
        entitle(session, registry.fence, {"seed": row.name})
        record(session, registry.actor, "publish seed", row.name, row.ffn)
        return seed_record(row)


def publish_expert(registry: Registry, new: NewExpert, *, version: int | None = None) -> ExpertRecord:
    """Publish the next version of an expert whose blobs are in the store, or a given later one.

    The expert is anchored if its trunk is the seed's and no low-rank difference changes it.

    Raises NotFoundError for an unknown seed, ConflictError if another expert's name differs only by case or the given
    version is below the next one, IntegrityError if a blob is missing.
    """
    with registry.session() as session:
        lock_writers(session)
        base = find_seed(session, new.seed)
        stored_name, following = _next_version(session, Expert, new.name)
        if version is not None and version < following:
            raise ConflictError(
                f"{stored_name}@{version} cannot be published: the next version of this name is {following}"
            )
        version = version or following
        anchored = new.trunk == base.trunk and not _changes_trunk(registry, new)
        row = expert_row(new, name=stored_name, version=version, seed=base, anchored=anchored)
        _refer(session, registry, blob_digests(row))
        session.add(row)
        session.flush()
        entitle(session, registry.fence, {"expert": f"{row.name}@{row.version}"})
        record(
            session, registry.actor, "publish expert", f"{row.name}@{row.version}", row.difference or row.ffn
        )
        return expert_record(row)


def _changes_trunk(registry: Registry, new: NewExpert) -> bool:
    """Return whether the expert's low-rank difference, if any, changes a tensor of its trunk."""
    if new.difference is None:
        return False
    changed, trunk = (
        read_header(registry.blobs.path(digest, verify=False)) for digest in (new.difference, new.trunk)
    )
    return any(weight_name(name) in trunk for name in changed)


def publish_mix(
    registry: Registry,
    name: str,
    *,
    seed: str,
    experts: Sequence[str],
    manifest: Digest,
    lock: Digest,
    blobs: Sequence[Digest],
    parent: str | None = None,
) -> MixRecord:
    """Publish the next version of a mix; `experts` are references in the router's order.

    Raises NotFoundError for an unknown seed, expert or parent, IncompatibleError if an expert or the parent
    has another seed, IntegrityError if a blob is missing.
    """
    with registry.session() as session:
        lock_writers(session)
        base = find_seed(session, seed)
        members = [find_expert(session, ref) for ref in experts]
        extended = None if parent is None else find_mix(session, parent)
        _require_one_seed(base, [*members, *([extended] if extended else [])])
        stored_name, version = _next_version(session, Mix, name)
        _refer(session, registry, [manifest, lock, *blobs])
        row = Mix(
            name=stored_name,
            name_key=name_key(stored_name),
            version=version,
            seed=base,
            parent=extended,
            manifest=manifest,
            lock=lock,
            members=[MixExpert(position=place, expert=expert) for place, expert in enumerate(members)],
            blobs=[MixBlob(digest=digest) for digest in sorted(set(blobs))],
        )
        session.add(row)
        session.flush()
        entitle(session, registry.fence, {"mix": f"{row.name}@{row.version}"})
        record(session, registry.actor, "publish mix", f"{row.name}@{row.version}", row.manifest)
        return mix_record(session, row)


def withdraw(registry: Registry, ref: str, reason: str) -> ExpertRecord:
    """Mark a version as withdrawn: mixes that contain it stay; search and new mixes exclude it.

    Raises InvalidInputError without a reason, NotFoundError, ConflictError if it is already withdrawn.
    """
    if not reason.strip():
        raise InvalidInputError("withdrawing needs a reason: it is shown to everyone who requests the expert")
    with registry.session() as session:
        lock_writers(session)
        row = find_expert(session, ref)
        if row.withdrawn is not None:
            raise ConflictError(
                f"expert '{row.name}@{row.version}' is already withdrawn, because: {row.withdrawn}"
            )
        row.withdrawn = reason.strip()
        record(session, registry.actor, "withdraw expert", f"{row.name}@{row.version}", reason=row.withdrawn)
        return expert_record(row)


def record_evaluation(registry: Registry, mix_ref: str, evaluation: dict[str, Any]) -> None:
    """Store an evaluation of a mix; earlier ones are kept. Raises NotFoundError."""
    with registry.session() as session:
        entitle(session, registry.fence)
        mix = find_mix(session, mix_ref)
        session.add(Evaluation(mix_id=mix.id, result=evaluation))
        record(session, registry.actor, "evaluate mix", f"{mix.name}@{mix.version}", mix.manifest)


def record_measurement(registry: Registry, expert_ref: str, result: dict[str, Any]) -> None:
    """Store a measurement of an expert alone; earlier ones are kept. Raises NotFoundError."""
    with registry.session() as session:
        entitle(session, registry.fence)
        expert = find_expert(session, expert_ref)
        session.add(Measurement(expert_id=expert.id, result=result))
        record(session, registry.actor, "measure expert", f"{expert.name}@{expert.version}")


def _next_version(session: Session, table: type[Expert] | type[Mix], name: str) -> tuple[str, int]:
    """Return the stored form of `name` and its next version. The caller holds the writers' lock."""
    stored_name = check_name(name)
    newest = session.execute(
        select(table.name, table.version)
        .where(table.name_key == name_key(stored_name))
        .order_by(table.version.desc())
        .limit(1)
    ).first()
    if newest is None:
        return check_new_name(name), 1
    if newest.name != stored_name:
        raise ConflictError(
            f"'{stored_name}' differs only by case from the existing '{newest.name}': "
            f"write '{newest.name}' for its next version, or choose another name"
        )
    return stored_name, newest.version + 1


def _refer(session: Session, registry: Registry, digests: Iterable[Digest]) -> None:
    """Require that each blob is in the store, and add its row if it has none. Raises IntegrityError."""
    for digest in sorted({parse_digest(digest) for digest in digests}):
        if not registry.blobs.exists(digest):
            raise IntegrityError(
                f"blob {digest} is not in the store, so nothing was published: store it again"
            )
        if session.get(Blob, digest) is None:
            session.add(Blob(digest=digest, size=registry.blobs.size(digest)))
    session.flush()  # rows that are added later refer to these rows


def _require_one_seed(seed: Seed, rows: Sequence[Expert | Mix]) -> None:
    foreign = tuple(
        f"'{row.name}@{row.version}' has seed '{row.seed.name}'" for row in rows if row.seed_id != seed.id
    )
    if foreign:
        raise IncompatibleError(
            f"a mix of seed '{seed.name}' cannot contain parts of other seeds: {'; '.join(foreign)}", foreign
        )
