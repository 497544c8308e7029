"""Storage of a mix: the bytes of its own blobs, and of all blobs that it refers to."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import func, select, union

from registry.database.rows import find_mix
from registry.database.schema import Blob, Expert, MixBlob, Seed, SeedFile, blob_columns
from registry.home import Registry


class MixBytes(NamedTuple):
    """Sizes in bytes: of the blobs that no seed and no expert has, and of all blobs."""

    own: int
    total: int


def mix_bytes(registry: Registry, ref: str) -> MixBytes:
    """Return the storage of a mix. Raises NotFoundError."""
    others = union(
        *(
            select(column).where(column.is_not(None))  # NOT IN a set with NULL is never true
            for table in (Seed, SeedFile, Expert)
            for column in blob_columns(table.__table__)  # type: ignore[arg-type]
        )
    )
    with registry.session(read_only=True) as session:
        mix = find_mix(session, ref)
        wanted = (
            select(func.coalesce(func.sum(Blob.size), 0))
            .join(MixBlob, MixBlob.digest == Blob.digest)
            .where(MixBlob.mix_id == mix.id)
        )
        own = session.scalar(wanted.where(Blob.digest.not_in(others)))
        return MixBytes(int(own or 0), int(session.scalar(wanted) or 0))
