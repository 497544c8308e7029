"""The life of an expert version: draft, published, withdrawn, purged; and the parts of its card that may change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from registry.access import record
from registry.blobs import parse_digest
from registry.database.engine import lock_writers
from registry.database.rows import expert_record, find_expert
from registry.database.schema import (
    Base,
    Blob,
    Expert,
    ExpertLabel,
    Mix,
    MixBlob,
    MixExpert,
    Run,
    blob_columns,
)
from registry.errors import ConflictError, IntegrityError, InvalidInputError
from registry.home import Registry
from registry.names import parse_ref
from registry.queue.runs import LIVE
from registry.records import Digest, ExpertRecord

MAX_LABELS, MAX_LABEL_CHARS = 20, 100
MAX_README_BYTES = 200_000
# A purged row refers to this blob in place of its weights, because those columns cannot be empty.
_TOMBSTONE = b"the bytes of this expert were purged"


@dataclass(frozen=True)
class Purged:
    """A purged expert, the bytes that garbage collection may now remove, and the mixes that need them."""

    expert: str
    freed: int
    mixes: tuple[str, ...]


def publish_draft(registry: Registry, ref: str) -> ExpertRecord:
    """Publish a draft, so that lists, searches and references without a version find it.

    Raises NotFoundError, and ConflictError if it is not a draft or is withdrawn.
    """
    with registry.session() as session:
        lock_writers(session)
        row = find_expert(session, ref)
        if not row.draft or row.withdrawn is not None:
            state = "withdrawn" if row.withdrawn is not None else "published already"
            raise ConflictError(f"'{row.name}@{row.version}' is {state}: only a draft can be published")
        row.draft = False
        record(session, registry.actor, "publish draft", f"{row.name}@{row.version}", row.ffn)
        return expert_record(row)


def purge(registry: Registry, ref: str, *, dry_run: bool = False) -> Purged:
    """Release the bytes of a withdrawn expert version; its name, digests and reason stay as a tombstone.

    Garbage collection then removes them. The mixes that need them are returned: they refuse to run until they are
    composed again without the expert. Weights that a mix trained or merged itself go when that mix is deleted.
    `dry_run` changes nothing.

    Raises InvalidInputError without a version, NotFoundError, and ConflictError if the version is not withdrawn, is
    purged already, or a live run uses it.
    """
    if parse_ref(ref).version is None:
        raise InvalidInputError(f"{ref!a} has no version: name the version to purge, such as {ref}@1")
    tombstone = registry.blobs.put_bytes(_TOMBSTONE)
    with registry.session() as session:
        lock_writers(session)
        row = find_expert(session, ref)
        name = f"{row.name}@{row.version}"
        if row.withdrawn is None:
            raise ConflictError(
                f"{name} is not withdrawn: first run `nexusmix withdraw {name} --reason TEXT`"
            )
        if row.purged is not None:
            raise ConflictError(f"{name} was purged already")
        mixes = _mixes_of(session, row)
        _refuse_live(session, {name, *mixes})
        own = _release(session, row, tombstone)
        row.purged_at = datetime.now(UTC)
        record(session, registry.actor, "purge expert", name, row.purged and row.purged.get("ffn"))
        session.flush()
        freed = session.scalar(select(func.sum(Blob.size)).where(Blob.digest.in_(own))) or 0
        if dry_run:
            session.rollback()
        return Purged(name, int(freed), tuple(mixes))


def refuse_purged(registry: Registry, mix: str | None, experts: Sequence[str]) -> None:
    """Raise IntegrityError if an expert of a mix, given as `name@version`, was purged; `mix` is its name if known."""
    with registry.session(read_only=True) as session:
        purged = select(Expert.name, Expert.version).where(Expert.purged_at.is_not(None))
        gone = {f"{name}@{version}" for name, version in session.execute(purged)} & set(experts)
    if gone:
        listed = ", ".join(sorted(gone))
        raise IntegrityError(
            f"{mix or 'this mix'} needs {listed}, whose bytes were purged: compose it again without, with `nexusmix "
            f"remove {mix or 'MIX'} {sorted(gone)[0]}`"
        )


def describe(
    registry: Registry,
    ref: str,
    *,
    tags: Sequence[str] | None = None,
    authors: Sequence[str] | None = None,
    readme: str | None = None,
) -> ExpertRecord:
    """Replace the tags, authors or README (Markdown) of an expert version; None keeps the present ones.

    Raises NotFoundError, and InvalidInputError for too many or too long ones.
    """
    if readme is not None and len(readme.encode()) > MAX_README_BYTES:
        raise InvalidInputError(f"the README has more than {MAX_README_BYTES:,} bytes: shorten it")
    with registry.session() as session:
        lock_writers(session)
        row = find_expert(session, ref)
        for kind, values in (("tag", tags), ("author", authors)):
            if values is not None:
                kept = [label for label in row.labels if label.kind != kind]
                row.labels = [*kept, *(ExpertLabel(kind=kind, value=each) for each in _labels(kind, values))]
        if readme is not None:
            row.readme = readme.replace("\0", "")
        record(session, registry.actor, "describe expert", f"{row.name}@{row.version}")
        session.flush()
        return expert_record(row)


def get_readme(registry: Registry, ref: str) -> str:
    """Return an expert's README (Markdown); empty without one. Raises NotFoundError."""
    with registry.session(read_only=True) as session:
        return find_expert(session, ref).readme or ""


def _labels(kind: str, values: Sequence[str]) -> list[str]:
    stored = list(dict.fromkeys(value.strip() for value in values if value.strip()))
    if kind == "tag":
        stored = list(dict.fromkeys(value.lower() for value in stored))
    for value in stored:
        if len(value) > MAX_LABEL_CHARS or not value.isprintable():
            raise InvalidInputError(
                f"the {kind} {value[:60]!a} is not one line of at most {MAX_LABEL_CHARS} printable characters"
            )
    if len(stored) > MAX_LABELS:
        raise InvalidInputError(f"an expert has at most {MAX_LABELS} {kind}s, got {len(stored)}")
    return stored


def _mixes_of(session: Session, row: Expert) -> list[str]:
    members = select(MixExpert.mix_id).where(MixExpert.expert_id == row.id)
    found = (
        select(Mix).where(Mix.id.in_(members), Mix.deleted_at.is_(None)).order_by(Mix.name_key, Mix.version)
    )
    return [f"{mix.name}@{mix.version}" for mix in session.scalars(found)]


def _refuse_live(session: Session, names: set[str]) -> None:
    for run in session.scalars(select(Run).where(Run.state.in_(LIVE)).order_by(Run.id)):
        used = names & set(_strings(run.request))
        if used:
            raise ConflictError(
                f"run {run.id} ({run.kind}) uses {sorted(used)[0]}: wait until it ends, or cancel it"
            )


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _strings(each)


def _release(session: Session, row: Expert, tombstone: Digest) -> set[Digest]:
    """Remove the references to the expert's blobs and keep their digests as text; return those nobody else needs."""
    columns = [column.name for column in blob_columns(Base.metadata.tables["experts"])]
    digests = {name: digest for name in columns if (digest := getattr(row, name)) is not None}
    row.purged = digests
    if session.get(Blob, tombstone) is None:
        session.add(Blob(digest=parse_digest(tombstone), size=len(_TOMBSTONE)))
        session.flush()
    for name in digests:
        setattr(row, name, tombstone if name in ("ffn", "trunk") else None)
    session.flush()
    own = set(digests.values()) - _needed(session, set(digests.values()))
    session.execute(delete(MixBlob).where(MixBlob.digest.in_(own)))
    return own


def _needed(session: Session, digests: set[Digest]) -> set[Digest]:
    """Return those digests to which a row refers, except that of a mix which lists its experts' blobs."""
    return {
        digest
        for table in Base.metadata.tables.values()
        if table.name != MixBlob.__tablename__
        for column in blob_columns(table)
        for digest in session.scalars(select(column).where(column.in_(digests)).distinct())
    }
