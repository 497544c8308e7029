"""Verification: hash every stored byte of a seed, an expert, a mix or the whole registry again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.database.rows import blob_digests
from registry.database.schema import Blob, Expert, Mix, Seed
from registry.errors import IntegrityError, NotFoundError
from registry.home import Registry
from registry.names import Ref, parse_ref
from registry.records import Digest

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Problem:
    """A blob that is missing or damaged; `owner` refers to it, such as "expert python@1"."""

    owner: str
    digest: Digest
    message: str


def verify(registry: Registry, ref: str | None = None, *, progress: Progress | None = None) -> list[Problem]:
    """Hash all blobs of every seed, expert and mix named `ref`, or of the whole registry; each blob is read once.

    A name without a version means all versions. A damaged blob is moved to the quarantine folder and reported
    for each of its owners. Raises NotFoundError if nothing has that name.
    """
    wanted = None if ref is None else parse_ref(ref)
    with registry.session(read_only=True) as session:
        owners = _owners(session, wanted)
    if wanted is not None and not owners:
        raise NotFoundError(f"no seed, expert or mix '{wanted}'")
    holders: dict[Digest, list[str]] = defaultdict(list)
    for owner, digests in owners.items():
        for digest in sorted(set(digests)):
            holders[digest].append(owner)
    problems = []
    for done, (digest, names) in enumerate(sorted(holders.items())):
        if progress is not None:
            progress("verify", done, len(holders))
        try:
            registry.blobs.rehash(digest)
        except (IntegrityError, NotFoundError) as error:
            problems += [Problem(owner, digest, str(error)) for owner in names]
    if progress is not None:
        progress("verify", len(holders), len(holders))
    return sorted(problems, key=lambda problem: (problem.owner, problem.digest))


def find_missing(registry: Registry) -> list[Problem]:
    """Return the blobs of seeds, experts and mixes that are not in the store or have another size; none is read."""
    with registry.session(read_only=True) as session:
        owners = _owners(session, None)
        sizes = {blob.digest: blob.size for blob in session.scalars(select(Blob))}
    return [
        Problem(owner, digest, message)
        for owner, digests in sorted(owners.items())
        for digest in sorted(set(digests))
        if (message := _wrong_size(registry, digest, sizes[digest])) is not None
    ]


def _wrong_size(registry: Registry, digest: Digest, size: int) -> str | None:
    try:
        found = registry.blobs.size(digest)
    except NotFoundError as error:
        return str(error)
    return None if found == size else f"blob {digest} has {found:,} bytes, expected {size:,}"


def _owners(session: Session, ref: Ref | None) -> dict[str, list[Digest]]:
    """Return the blobs of each seed, expert and mix, by owner."""

    def named(key: str, version: int | None) -> bool:
        return ref is None or (key == ref.key and ref.version in (None, version))

    owners: dict[str, list[Digest]] = {}
    for seed in session.scalars(select(Seed)):
        if named(seed.name_key, None):
            files = [file.digest for file in seed.files]
            owners[f"seed {seed.name}"] = blob_digests(seed) + files
    for expert in session.scalars(select(Expert)):
        if named(expert.name_key, expert.version):
            owners[f"expert {expert.name}@{expert.version}"] = blob_digests(expert)
    for mix in session.scalars(select(Mix)):
        if named(mix.name_key, mix.version):
            digests = [mix.manifest, mix.lock, *(blob.digest for blob in mix.blobs)]
            owners[f"mix {mix.name}@{mix.version}"] = digests
    return owners
