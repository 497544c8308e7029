"""The Python face of a registry whose database and store are on other machines, as docs/TEAM.md describes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from publishing import add_expert, add_seed

from registry import get_expert, list_experts, open_registry, search
from registry.accounts import add_account
from registry.catalog.queries import withdraw
from registry.domains.embedding import embed_domain, load_embedder
from registry.errors import AccessError
from registry.home import Registry


def test_a_reader_on_another_machine_lists_searches_and_downloads_but_changes_nothing(
    any_registry: Registry, tmp_path: Path
) -> None:
    add_seed(any_registry)
    domain, _vectors = embed_domain(load_embedder(any_registry.embedder), ["contracts and courts"])
    law = add_expert(any_registry, "law", embedding=domain)
    token = add_account(any_registry, "ann", "reader").token
    with open_registry(
        tmp_path / "laptop",
        database_url=any_registry.engine.url.render_as_string(hide_password=False),
        store_url=str(any_registry.blobs),
        embedder="hashing:16",
        token=token,
        own_settings=True,
    ) as team:
        assert team.actor.name == "ann"
        assert [expert.ref for expert in list_experts(team, license="MIT")] == ["law@1"]
        assert [hit.expert.ref for hit in search(team, "law")] == ["law@1"]
        assert team.blobs.path(get_expert(team, "law").ffn).read_bytes() == b"law ffn"
        with pytest.raises(AccessError, match="ann is a reader"):
            withdraw(team, law.ref, "a reason")
