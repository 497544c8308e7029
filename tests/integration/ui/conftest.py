"""Mixes of both kinds that can chat, for the API server and the command line."""

from __future__ import annotations

from collections.abc import Iterator

import pico
import pytest

from composer.composition import compose
from composer.mix.recipe import Recipe
from registry.home import Registry, open_registry
from registry.intake.intake import add_seed, contribute

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if messages[0].content == 'refuse' %}{{ raise_exception('no <such> talk') }}{% endif %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def mixes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """The mix `whole` of whole experts, and `merged` with one trunk."""
    root = tmp_path_factory.mktemp("served")
    registry = open_registry(root / "home", embedder="hashing:16")
    seed = pico.write_pico(root / "seed")
    (seed / "chat_template.jinja").write_text(TEMPLATE)
    add_seed(registry, "pico", seed, license="MIT")
    for number, name in enumerate(("code", "math"), 1):
        folder = pico.branch_pico(seed, root / name, seed=number, scale=0.1)
        data = pico.write_documents(root / f"{name}.jsonl", name)
        contribute(registry, name, folder, seed="pico", license="MIT", data=[data])
    untrained = {"training": {"warm_start": False, "tokens": 0}}
    for name, merge in {"whole": "routed", "merged": "mean"}.items():
        recipe = {"name": name, "seed": "pico", "experts": ["code", "math"], "trunk_merge": merge}
        compose(registry, Recipe.parse(recipe | (untrained if name == "merged" else {})))
    yield registry
    registry.engine.dispose()
