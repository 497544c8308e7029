"""The catalog on both databases: publishing, look-ups, withdrawal, verification, garbage collection."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from typing import Any

import numpy as np
import publishing
import pytest
import warm_process
from publishing import add_expert, add_mix, add_seed, make_embedding
from sqlalchemy import func, select

from registry.catalog import queries
from registry.catalog.gc import collect
from registry.database.schema import Base, Blob, Expert, Seed
from registry.errors import (
    ConflictError,
    IncompatibleError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
)
from registry.home import Registry
from registry.names import check_name

ABSENT = "sha256:" + "0" * 64


def test_a_seed_is_read_back_as_it_was_published(any_registry: Registry) -> None:
    published = add_seed(any_registry)
    assert queries.get_seed(any_registry, "BASE") == published
    assert queries.list_seeds(any_registry) == [published]
    assert set(published.files) == {"config.json", "tokenizer.json"}


def test_a_second_seed_of_the_same_name_is_a_conflict(any_registry: Registry) -> None:
    add_seed(any_registry, "base")
    for name in ("base", "Base", "ｂase"):
        with pytest.raises(ConflictError, match="'base'"):
            add_seed(any_registry, name)


def test_an_expert_is_read_back_as_it_was_published(any_registry: Registry) -> None:
    add_seed(any_registry)
    published = add_expert(any_registry, embedding=make_embedding(2))
    found = queries.get_expert(any_registry, "python@1")
    assert (found.ref, found.seed, found.provenance) == ("python@1", "base", {"tool": "test"})
    assert found.created_at == published.created_at
    assert found.embedding.embedder == publishing.EMBEDDER
    for name in ("mean", "centroids", "centroid_weights"):
        vectors = getattr(found.embedding, name)
        assert vectors.dtype == np.float32
        np.testing.assert_array_equal(vectors, getattr(make_embedding(2), name))


def test_experts_are_listed_in_pages_counted_and_narrowed(any_registry: Registry) -> None:
    trunk = add_seed(any_registry).trunk
    add_seed(any_registry, "other")
    for number in range(5):
        add_expert(any_registry, f"e{number}", license="MIT" if number % 2 else "Apache-2.0")
    add_expert(any_registry, "e5", seed="other", license="MIT")
    add_expert(any_registry, "e6", trunk=trunk, license="CC0-1.0", parameters=1_000)
    add_mix(any_registry, experts=["e3", "e4"])
    queries.record_evaluation(any_registry, "blend@1", {"mean": {"mix": 2.0}})
    add_mix(any_registry, "unmeasured", experts=["e0"])
    queries.withdraw(any_registry, "e1", "a test")

    def names(**narrow: Any) -> str:
        listed = [expert.name.removeprefix("e") for expert in queries.list_experts(any_registry, **narrow)]
        counted = {key: narrow[key] for key in narrow.keys() - {"limit", "offset"}}
        if "limit" not in narrow:
            assert queries.count_experts(any_registry, **counted) == len(listed)
        return "".join(listed)

    assert names() == "023456"
    assert names(include_withdrawn=True) == "0123456"
    assert names(limit=2, offset=2) == "34"
    assert names(limit=9, offset=5) == "6"
    assert names(seed="other") == "5"
    assert names(license="MIT") == "35"
    assert names(anchored=True) == "6"
    assert names(license="MIT", anchored=False, seed="base") == "3"
    assert names(parameters=(0, 7_000_000_000)) == "6"
    assert names(parameters=(7_000_000_000, None), seed="other") == "5"
    assert names(measured=True) == "34"
    assert names(measured=False, license="Apache-2.0") == "02"
    assert queries.list_licenses(any_registry) == ["Apache-2.0", "CC0-1.0", "MIT"]


def test_versions_of_an_expert_and_the_mixes_that_contain_it_are_looked_up(any_registry: Registry) -> None:
    add_seed(any_registry)
    for name in ("python", "python", "prose"):
        add_expert(any_registry, name)
    add_mix(any_registry, "one", experts=["python@1"])
    add_mix(any_registry, "both", experts=["prose@1", "python@1"])
    queries.withdraw(any_registry, "python@2", "a test")
    assert [expert.ref for expert in queries.list_versions(any_registry, "Python")] == [
        "python@1",
        "python@2",
    ]
    assert queries.list_versions(any_registry, "nobody") == []
    assert [mix.ref for mix in queries.list_mixes(any_registry, expert="python@1")] == ["both@1", "one@1"]
    assert [mix.ref for mix in queries.list_mixes(any_registry, expert="prose")] == ["both@1"]


def test_domains_are_those_of_the_newest_versions(any_registry: Registry) -> None:
    add_seed(any_registry)
    add_expert(any_registry, "python", embedding=make_embedding(0))
    add_expert(any_registry, "python", embedding=make_embedding(1))
    before = queries.experts_stamp(any_registry)
    add_expert(any_registry, "prose", description="stories")
    assert queries.experts_stamp(any_registry) != before
    prose, python = queries.list_domains(any_registry)
    assert (prose.ref, prose.description, prose.seed, python.ref) == (
        "prose@1",
        "stories",
        "base",
        "python@2",
    )
    assert python.embedder == publishing.EMBEDDER
    np.testing.assert_array_equal(python.mean, make_embedding(1).mean)
    before = queries.experts_stamp(any_registry)
    queries.withdraw(any_registry, "prose", "a test")
    assert queries.experts_stamp(any_registry) != before
    assert [domain.ref for domain in queries.list_domains(any_registry, seed="base")] == ["python@2"]


def test_an_expert_with_the_seeds_trunk_is_anchored(any_registry: Registry) -> None:
    seed = add_seed(any_registry)
    assert add_expert(any_registry, "same", trunk=seed.trunk).anchored
    assert not add_expert(any_registry, "other").anchored


def test_each_publication_of_a_name_is_its_next_version(any_registry: Registry) -> None:
    add_seed(any_registry)
    refs = [add_expert(any_registry, name).ref for name in ("python", "ada", "python", "ｐython")]
    assert refs == ["python@1", "ada@1", "python@2", "python@3"]
    assert [expert.ref for expert in queries.list_experts(any_registry)] == [
        "ada@1",
        "python@1",
        "python@2",
        "python@3",
    ]
    assert queries.get_expert(any_registry, "Python").version == 3


def test_a_name_that_differs_only_by_case_is_a_conflict(any_registry: Registry) -> None:
    add_seed(any_registry)
    add_expert(any_registry, "python")
    add_mix(any_registry, "blend", experts=["python"])
    with pytest.raises(ConflictError, match="existing 'python'"):
        add_expert(any_registry, "Python")
    with pytest.raises(ConflictError, match="existing 'blend'"):
        add_mix(any_registry, "BLEND", experts=["python"])


def test_writers_of_the_same_name_at_once_get_different_versions(
    any_registry: Registry, database_url: str
) -> None:
    add_seed(any_registry)
    imports = (
        "from pathlib import Path\n"
        "from publishing import add_expert\n"
        "from registry.home import open_registry\n"
        "registry = open_registry(Path(sys.argv[1]), database_url=sys.argv[2])"
    )
    body = "print(*[add_expert(registry).version for _ in range(5)])"
    printed = publishing.race(imports, body, 3, str(any_registry.home), database_url)
    assert sorted(int(version) for line in printed for version in line.split()) == list(range(1, 16))


def test_a_publication_whose_blob_is_missing_leaves_no_row(any_registry: Registry) -> None:
    add_seed(any_registry)
    with any_registry.session(read_only=True) as session:
        before = session.scalar(select(func.count()).select_from(Blob))
    with pytest.raises(IntegrityError, match="nothing was published"):
        add_seed(any_registry, "another", files={"config.json": ABSENT})
    with pytest.raises(IntegrityError, match="nothing was published"):
        add_expert(any_registry, ffn=ABSENT)
    with pytest.raises(InvalidInputError, match="not a digest"):
        add_expert(any_registry, ffn="md5:0")
    with any_registry.session(read_only=True) as session:
        assert session.scalar(select(func.count()).select_from(Expert)) == 0
        assert session.scalar(select(func.count()).select_from(Seed)) == 1
        assert session.scalar(select(func.count()).select_from(Blob)) == before


def test_what_does_not_exist_is_not_found(any_registry: Registry) -> None:
    with pytest.raises(NotFoundError, match="no seed 'base'"):
        add_expert(any_registry)
    add_seed(any_registry)
    add_expert(any_registry)
    for look_up in (
        lambda: queries.get_seed(any_registry, "none-such"),
        lambda: queries.get_expert(any_registry, "python@2"),
        lambda: queries.get_mix(any_registry, "python"),
        lambda: queries.list_experts(any_registry, seed="none-such"),
        lambda: queries.record_evaluation(any_registry, "blend", {}),
        lambda: queries.verify(any_registry, "none-such"),
        lambda: add_mix(any_registry, experts=["python@2"]),
    ):
        with pytest.raises(NotFoundError):
            look_up()


def test_a_withdrawn_version_gives_way_to_the_one_before(any_registry: Registry) -> None:
    add_seed(any_registry)
    for _ in range(2):
        add_expert(any_registry)
    assert queries.withdraw(any_registry, "python@2", "licence mistake").withdrawn == "licence mistake"
    assert queries.get_expert(any_registry, "python").version == 1
    assert queries.get_expert(any_registry, "python@2").withdrawn == "licence mistake"
    assert [expert.ref for expert in queries.list_experts(any_registry)] == ["python@1"]
    assert len(queries.list_experts(any_registry, include_withdrawn=True)) == 2
    with pytest.raises(ConflictError, match="already"):
        queries.withdraw(any_registry, "python@2", "again")
    with pytest.raises(InvalidInputError, match="reason"):
        queries.withdraw(any_registry, "python@1", " ")
    queries.withdraw(any_registry, "python", "the rest too")
    with pytest.raises(NotFoundError, match="every version of expert 'python' is withdrawn"):
        queries.get_expert(any_registry, "python")
    assert add_expert(any_registry).version == 3


def test_an_expert_of_a_mix_is_named_by_itself_even_after_it_was_withdrawn(any_registry: Registry) -> None:
    add_seed(any_registry)
    for name in ("python", "law", "python"):
        add_expert(any_registry, name)
    add_mix(any_registry, experts=["python@1", "law"])
    add_mix(any_registry, "both", experts=["python@1", "python@2"])
    queries.withdraw(any_registry, "python@1", "its text had to be deleted")
    queries.withdraw(any_registry, "python@2", "this too")
    assert queries.get_member(any_registry, "blend", "Python") == "python@1"
    assert queries.get_member(any_registry, "both", "python@2") == "python@2"
    for mix, expert in (("blend", "python@2"), ("both", "python"), ("both", "law"), ("nobody", "law")):
        with pytest.raises(NotFoundError):
            queries.get_member(any_registry, mix, expert)


def test_a_name_that_looks_like_another_is_not_published_but_an_old_one_is_found(
    any_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_seed(any_registry)
    with pytest.raises(InvalidInputError, match="CYRILLIC and LATIN"):
        add_expert(any_registry, "p\u0443thon")
    with monkeypatch.context() as patch:
        patch.setattr("registry.catalog.publish.check_new_name", check_name)
        add_expert(any_registry, "p\u0443thon")
    assert queries.get_expert(any_registry, "p\u0443thon").version == 1
    assert add_expert(any_registry, "p\u0443thon").version == 2


def test_experts_are_listed_by_seed(any_registry: Registry) -> None:
    for seed in ("base", "other"):
        add_seed(any_registry, seed)
    add_expert(any_registry, "python", seed="base")
    add_expert(any_registry, "prose", seed="other")
    assert [expert.ref for expert in queries.list_experts(any_registry, seed="other")] == ["prose@1"]


def test_a_mix_keeps_its_experts_in_order_and_its_parent(any_registry: Registry) -> None:
    add_seed(any_registry)
    for name in ("python", "prose", "maths"):
        add_expert(any_registry, name)
    first = add_mix(any_registry, experts=["python", "maths"])
    second = add_mix(any_registry, experts=["python", "maths", "prose"], parent="blend")
    assert (first.ref, first.parent) == ("blend@1", None)
    assert (second.ref, second.parent) == ("blend@2", "blend@1")
    assert second.experts == ("python@1", "maths@1", "prose@1")
    assert queries.get_mix(any_registry, "blend") == second
    assert queries.list_mixes(any_registry) == [first, second]


def test_a_mix_does_not_contain_experts_of_another_seed(any_registry: Registry) -> None:
    for seed in ("base", "other"):
        add_seed(any_registry, seed)
    add_expert(any_registry, "python", seed="other")
    with pytest.raises(IncompatibleError, match="'python@1' has seed 'other'") as caught:
        add_mix(any_registry, experts=["python"])
    assert len(caught.value.mismatches) == 1


def test_a_mix_shows_its_newest_evaluation(any_registry: Registry) -> None:
    add_seed(any_registry)
    add_expert(any_registry)
    add_mix(any_registry, experts=["python"])
    assert queries.get_mix(any_registry, "blend").evaluation is None
    for value in (1.5, 1.25):
        queries.record_evaluation(any_registry, "blend@1", {"bits_per_byte": {"python": {"mix": value}}})
    assert queries.get_mix(any_registry, "blend").evaluation == {"bits_per_byte": {"python": {"mix": 1.25}}}


def test_verification_finds_no_problem_in_a_sound_registry(any_registry: Registry) -> None:
    add_seed(any_registry)
    add_expert(any_registry)
    add_mix(any_registry, experts=["python"])
    steps: list[tuple[str, int, int]] = []
    assert queries.verify(any_registry, progress=lambda *step: steps.append(step)) == []
    assert steps[-1] == ("verify", 10, 10)


def test_verification_names_every_owner_of_a_damaged_or_missing_blob(any_registry: Registry) -> None:
    seed = add_seed(any_registry)
    expert = add_expert(any_registry, trunk=seed.trunk)
    add_expert(any_registry, "prose")
    add_mix(any_registry, experts=["python"], blobs=[expert.ffn])
    any_registry.blobs.delete(expert.ffn)
    any_registry.blobs.path(seed.trunk).write_bytes(b"damage")
    assert queries.verify(any_registry, "prose") == []
    found = [(problem.owner, problem.digest) for problem in queries.verify(any_registry)]
    assert set(found) == {
        ("expert python@1", expert.ffn),
        ("mix blend@1", expert.ffn),
        ("expert python@1", seed.trunk),
        ("seed base", seed.trunk),
    }


def test_garbage_is_what_no_row_refers_to_once_its_grace_has_passed(any_registry: Registry) -> None:
    add_seed(any_registry)
    add_expert(any_registry)
    add_mix(any_registry, experts=["python"])
    referred = set(any_registry.blobs.iter_digests())
    old, young = any_registry.blobs.put_bytes(b"old orphan"), any_registry.blobs.put_bytes(b"young orphan")
    for digest in referred | {old}:
        os.utime(any_registry.blobs.path(digest), (0, 0))
    grace = timedelta(hours=1)
    planned = collect(any_registry, grace=grace, dry_run=True)
    assert (planned.blobs, planned.size) == ((old,), len(b"old orphan"))
    assert any_registry.blobs.exists(old)
    assert collect(any_registry, grace=grace) == planned
    assert set(any_registry.blobs.iter_digests()) == referred | {young}
    assert queries.verify(any_registry) == []


def test_a_publisher_killed_before_the_commit_leaves_only_an_orphan(
    any_registry: Registry, database_url: str
) -> None:
    add_seed(any_registry)
    before = set(any_registry.blobs.iter_digests())
    script = """
import os, signal, sys
from pathlib import Path
from sqlalchemy.orm import Session
from publishing import add_expert
from registry.home import open_registry
registry = open_registry(Path(sys.argv[1]), database_url=sys.argv[2])
Session.commit = lambda _: os.kill(os.getpid(), signal.SIGKILL)
add_expert(registry, sample=None)
"""
    process = warm_process.start(script, str(any_registry.home), database_url)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert queries.list_experts(any_registry) == []
    orphans = set(any_registry.blobs.iter_digests()) - before
    assert len(orphans) == 3
    assert set(collect(any_registry, grace=timedelta(0)).blobs) == orphans
    assert add_expert(any_registry).version == 1


def test_storing_an_old_orphan_again_renews_its_grace(any_registry: Registry) -> None:
    digest = any_registry.blobs.put_bytes(b"orphan")
    os.utime(any_registry.blobs.path(digest), (0, 0))
    any_registry.blobs.put_bytes(b"orphan")
    assert collect(any_registry, grace=timedelta(hours=1)).blobs == ()


def test_every_digest_column_keeps_its_blob_alive() -> None:
    plain = {
        f"{table.name}.{column.name}"
        for table in Base.metadata.tables.values()
        for column in table.columns
        if getattr(column.type, "length", None) == 71 and not column.foreign_keys
    }
    # the others refer to the first; the second names bytes that may not have been sent, the third outlives its blob
    assert plain == {"blobs.digest", "embeddings.sample_sha256", "events.digest"}
