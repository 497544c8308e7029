"""A seed's chat template is untrusted code: generating runs none of it, and chat runs it with limits."""

import json

import jinja2
import pico
import pytest

from composer.composition import compose
from composer.generation import generate
from composer.mix.opening import find_mix, open_mix
from composer.mix.recipe import Recipe, Training
from registry.home import open_registry
from registry.intake.intake import add_seed, contribute

ESCAPE = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
ENDLESS = "{% for a in range(10**9) %}{% for b in range(10**9) %}x{% endfor %}{% endfor %}"


@pytest.mark.parametrize("template", [ESCAPE, ENDLESS])
def test_a_mix_writes_without_rendering_its_seeds_chat_template(tmp_path, template):
    registry = open_registry(tmp_path / "home", embedder="hashing:16")
    seed = pico.write_pico(tmp_path / "seed")
    settings = json.loads((seed / "tokenizer_config.json").read_text())
    (seed / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))
    add_seed(registry, "pico", seed, license="MIT")
    data = [pico.write_documents(tmp_path / "code.jsonl", "code")]
    contribute(registry, "code", seed, seed="pico", license="MIT", data=data, allow_unchanged=True)
    training = Training(warm_start=False, tokens=0)
    compose(
        registry, Recipe(name="mix", seed="pico", experts=["code"], trunk_merge="regmean", training=training)
    )
    assert len(generate(registry, "mix", "def ", max_new_tokens=2).tokens) <= 2
    tokenizer = open_mix(registry, find_mix(registry, "mix")[1]).tokenizer
    assert tokenizer.chat_template == template
    if template == ESCAPE:
        with pytest.raises(jinja2.exceptions.SecurityError):
            tokenizer.apply_chat_template([{"role": "user", "content": "hi"}])
    registry.engine.dispose()
