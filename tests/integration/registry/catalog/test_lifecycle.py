"""The life of an expert version on both databases: draft, published, withdrawn, purged; and its labels."""

from __future__ import annotations

from datetime import timedelta

import pytest
from alembic import command
from alembic.config import Config
from publishing import add_expert, add_mix, add_seed
from sqlalchemy import text

from registry.catalog import queries
from registry.catalog.aliases import point
from registry.catalog.deletion import delete_mix
from registry.catalog.gc import collect
from registry.catalog.lifecycle import describe, get_readme, publish_draft, purge, refuse_purged
from registry.database.engine import create_engine, migrate
from registry.errors import ConflictError, IntegrityError, InvalidInputError, NotFoundError
from registry.home import Registry
from registry.queue import runs

AT_ONCE = timedelta(days=-1)


def fields(registry: Registry, ref: str) -> dict[str, object]:
    """All fields of an expert except its vectors, which have no truth value when they are compared."""
    expert = queries.get_expert(registry, ref)
    return {name: value for name, value in vars(expert).items() if name != "embedding"}


@pytest.fixture
def stocked(any_registry: Registry) -> Registry:
    """A registry with law@1, its copy twin@1 and python@1, and the mix blend@1 of law and python."""
    add_seed(any_registry)
    law = add_expert(any_registry, "law", chunk_vectors=any_registry.blobs.put_bytes(b"law vectors"))
    add_expert(any_registry, "twin", trunk=law.trunk)
    python = add_expert(any_registry)
    parts = [law.ffn, law.sample, law.chunk_vectors, python.ffn]
    add_mix(
        any_registry,
        experts=["law", "python"],
        blobs=[*filter(None, parts), any_registry.blobs.put_bytes(b"router")],
    )
    return any_registry


def test_a_draft_is_found_only_by_its_version_until_it_is_published(stocked: Registry) -> None:
    draft = add_expert(stocked, "law", draft=True)
    new = add_expert(stocked, "new", draft=True)
    assert (draft.ref, draft.state) == ("law@2", "draft")
    assert queries.get_expert(stocked, "law").ref == "law@1"
    assert queries.get_expert(stocked, "law@2").draft
    with pytest.raises(NotFoundError, match="nexusmix publish new@1"):
        queries.get_expert(stocked, "new")
    listed = {expert.ref for expert in queries.list_experts(stocked)}
    assert listed == {"law@1", "twin@1", "python@1"}
    assert {"law@2", "new@1"} <= {each.ref for each in queries.list_experts(stocked, include_withdrawn=True)}
    with pytest.raises(InvalidInputError, match="is a draft"):
        point(stocked, "law@stable", "law@2")
    before = queries.experts_stamp(stocked)
    assert publish_draft(stocked, new.ref).state == "published"
    assert queries.experts_stamp(stocked) != before
    assert queries.get_expert(stocked, "new").ref == "new@1"
    for ref in ("new@1", "law@1"):
        with pytest.raises(ConflictError, match="published already"):
            publish_draft(stocked, ref)


def test_the_bytes_of_a_purged_expert_go_and_a_tombstone_stays(stocked: Registry) -> None:
    law = queries.get_expert(stocked, "law")
    queries.withdraw(stocked, "law", "its text had to be deleted")
    before = fields(stocked, "law@1")
    assert purge(stocked, "law@1", dry_run=True).mixes == ("blend@1",)
    assert fields(stocked, "law@1") == before

    purged = purge(stocked, "LAW@1")
    own = [law.ffn, law.sample, law.chunk_vectors]
    assert (purged.expert, purged.mixes) == ("law@1", ("blend@1",))
    assert purged.freed == sum(stocked.blobs.size(digest) for digest in own if digest)
    assert set(own) <= set(collect(stocked, grace=AT_ONCE).blobs)
    assert not any(stocked.blobs.exists(digest) for digest in own if digest)
    assert stocked.blobs.exists(law.trunk)  # the twin needs it
    after = queries.get_expert(stocked, "law@1")
    assert after.purged_at is not None and after.state == "purged"
    assert fields(stocked, "law@1") == {**before, "purged_at": after.purged_at}
    assert queries.verify(stocked) == []
    assert queries.get_mix(stocked, "blend").purged == ("law@1",)
    assert add_expert(stocked, "law").ref == "law@2"


def test_a_mix_that_needs_a_purged_expert_is_refused_with_the_remedy(stocked: Registry) -> None:
    mix = queries.get_mix(stocked, "blend")
    assert mix.withdrawn == mix.purged == ()
    queries.withdraw(stocked, "law", "a reason")
    assert queries.get_mix(stocked, "blend").withdrawn == ("law@1",)
    refuse_purged(stocked, mix.ref, mix.experts)
    purge(stocked, "law@1")
    with pytest.raises(IntegrityError, match=r"blend@1 needs law@1.*nexusmix remove blend@1 law@1"):
        refuse_purged(stocked, mix.ref, mix.experts)
    assert queries.get_member(stocked, "blend", "law") == "law@1"


def test_only_a_withdrawn_version_that_no_live_run_uses_is_purged_once(stocked: Registry) -> None:
    with pytest.raises(ConflictError, match="nexusmix withdraw law@1"):
        purge(stocked, "law@1")
    with pytest.raises(InvalidInputError, match="no version"):
        purge(stocked, "law")
    queries.withdraw(stocked, "law", "a reason")
    for request in ({"mix": "blend@1"}, {"recipe": {"experts": ["python@1", "law@1"]}}):
        run = runs.submit(stocked, "evaluate", request)
        with pytest.raises(ConflictError, match=f"run {run.id}"):
            purge(stocked, "law@1")
        runs.request_cancel(stocked, run.id)
    delete_mix(stocked, "blend@1")
    assert purge(stocked, "law@1").mixes == ()
    with pytest.raises(ConflictError, match="purged already"):
        purge(stocked, "law@1")


def test_tags_authors_and_readme_are_replaced_and_filter_lists_and_searches(stocked: Registry) -> None:
    described = describe(
        stocked, "law", tags=["Legal ", "legal", "german"], authors=["Ada Lovelace"], readme="# Law"
    )
    assert (described.tags, described.authors) == (("german", "legal"), ("Ada Lovelace",))
    assert get_readme(stocked, "law") == "# Law" and get_readme(stocked, "python") == ""
    describe(stocked, "python", tags=["german"])
    assert [each.name for each in queries.list_experts(stocked, tag="GERMAN")] == ["law", "python"]
    assert [each.name for each in queries.page_experts(stocked, author="Ada Lovelace").experts] == ["law"]
    assert queries.count_experts(stocked, tag="german", author="Nobody") == 0
    assert describe(stocked, "law", tags=[""]).tags == ()
    assert queries.get_expert(stocked, "law").authors == ("Ada Lovelace",)


@pytest.mark.parametrize(
    "change",
    [
        {"tags": ["x" * 101]},
        {"tags": ["a\nb"]},
        {"authors": ["a"] + [str(n) for n in range(20)]},
        {"readme": "é" * 100_001},
    ],
)
def test_a_label_or_readme_beyond_the_limits_is_refused(
    registry: Registry, change: dict[str, object]
) -> None:
    add_seed(registry)
    add_expert(registry)
    with pytest.raises(InvalidInputError):
        describe(registry, "python", **change)  # type: ignore[arg-type]


def test_experts_of_an_earlier_database_are_published_and_keep_their_fields(
    stocked: Registry, database_url: str
) -> None:
    before = fields(stocked, "law")
    config = Config()
    config.set_main_option("script_location", "registry.database:migrations")
    with stocked.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0010")
        connection.execute(text("UPDATE experts SET description = 'old' WHERE name = 'law'"))
    migrate(create_engine(database_url))
    assert fields(stocked, "law") == {**before, "description": "old"}
    assert queries.get_mix(stocked, "blend").experts == ("law@1", "python@1")


def test_maps_and_choices_skip_drafts(stocked: Registry) -> None:
    add_expert(stocked, "new", draft=True)
    assert "new@1" not in queries.list_refs(stocked)
    assert [domain.ref for domain in queries.list_domains(stocked)] == ["law@1", "python@1", "twin@1"]
