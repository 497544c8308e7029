"""The chat template of a mix: its seed's, the one of its experts, or a choice; kept, locked and exported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pico
import pytest

from composer.chat.templates import template_of
from composer.composition import compose, compose_lock
from composer.errors import ChatTemplateError, RecipeError
from composer.experts.contribution import contribute
from composer.formats import export
from composer.mix.lock import Lock
from composer.mix.opening import Manifest
from composer.mix.recipe import Recipe
from registry.catalog import queries
from registry.catalog.gc import referred
from registry.home import Registry, open_registry
from registry.intake.intake import add_seed

OWN = {"law": "LAW {{ messages }}", "code": "CODE {{ messages }}", "math": "CODE {{ messages }}"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The seed `plain` without a template and `talking` with one. Of plain's experts `cooking` has no template."""
    root = tmp_path_factory.mktemp("templates")
    opened = open_registry(root / "home", embedder="hashing:16")
    folder = pico.write_pico(root / "seed")
    add_seed(opened, "plain", folder, license="MIT")
    for number, name in enumerate(("code", "math", "law", "cooking"), 1):
        expert = pico.branch_pico(folder, root / name, seed=number)
        if name == "code":
            config = json.loads((expert / "tokenizer_config.json").read_text())
            (expert / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": OWN[name]}))
        elif name in OWN:
            (expert / "chat_template.jinja").write_text(OWN[name])
        data = [pico.write_documents(root / f"{name}.jsonl", name)]
        contribute(opened, name, expert, seed="plain", license="MIT", data=data)
    (folder / "chat_template.jinja").write_text("SEED")
    add_seed(opened, "talking", folder, license="MIT")
    data = [root / "law.jsonl"]
    contribute(opened, "lawyer", root / "law", seed="talking", license="MIT", data=data)
    yield opened
    opened.engine.dispose()


def mixed(registry: Registry, *experts: str, seed: str = "plain") -> Manifest:
    """A mix of these experts."""
    training = {"warm_start": False, "tokens": 0}
    recipe = {
        "name": "m",
        "seed": seed,
        "experts": list(experts),
        "trunk_merge": "mean",
        "training": training,
    }
    return compose(registry, Recipe.parse(recipe)).manifest


def test_a_mix_uses_its_seeds_template_or_the_one_on_which_its_experts_agree(registry: Registry) -> None:
    for experts, seed, source, origin in (
        (["lawyer"], "talking", "SEED", "seed talking"),
        (["code", "math", "cooking"], "plain", OWN["code"], "code@1, math@1"),
    ):
        chosen = template_of(registry.blobs, mixed(registry, *experts, seed=seed))
        assert (chosen.source, chosen.origin) == (source, origin)


def test_without_one_template_a_mix_names_the_choice_and_an_expert_can_be_chosen(registry: Registry) -> None:
    mix = mixed(registry, "code", "law", "cooking")
    with pytest.raises(ChatTemplateError, match=r"code@1, law@1 differ: .*--template"):
        template_of(registry.blobs, mix)
    assert template_of(registry.blobs, mix, "law").source == OWN["law"]
    with pytest.raises(RecipeError, match="cooking@1 has no chat template; these have one: code@1, law@1"):
        template_of(registry.blobs, mix, "cooking")
    with pytest.raises(ChatTemplateError, match=r"chat_template\.jinja"):
        template_of(registry.blobs, mixed(registry, "cooking"))
    lawyer = mixed(registry, "lawyer", seed="talking")
    assert template_of(registry.blobs, lawyer, "lawyer@1").source == OWN["law"]


def test_a_template_is_pinned_by_the_lock_and_survives_garbage_collection(registry: Registry) -> None:
    mix = mixed(registry, "code", "law")
    digest = queries.get_expert(registry, "law").chat_template
    assert digest is not None and digest in mix.blobs()
    with registry.session() as session:
        assert digest in referred(session)
    lock = Lock.model_validate_json(registry.blobs.read_bytes(mix.lock))
    assert compose_lock(registry, lock, "again").manifest.to_bytes() == mix.to_bytes()
    assert (
        "chat_template"
        not in Lock.model_validate_json(registry.blobs.read_bytes(mixed(registry, "cooking").lock))
        .experts[0]
        .model_dump()
    )


@pytest.mark.parametrize("format", ["nexus", "qwen2_moe"])
def test_an_export_contains_the_experts_template(registry: Registry, tmp_path: Path, format: str) -> None:
    mixed(registry, "code", "math")
    export(registry, "m", tmp_path / "out", format=format)
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == OWN["code"]
    mixed(registry, "code", "law")
    export(registry, "m", tmp_path / "undecided", format=format)
    assert not (tmp_path / "undecided" / "chat_template.jinja").exists()
