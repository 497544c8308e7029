"""One conformance test: every reader of an export agrees with the mix on real prompts."""

from pathlib import Path

import pytest
from stock_mixes import CLOSE, VARIANTS, Transformers, exported, generated, largest_difference

from composer.formats import export
from registry.home import Registry


@pytest.mark.parametrize("name", VARIANTS)
def test_every_reader_agrees_with_the_mix(name: str, registry: Registry, tmp_path: Path) -> None:
    variant = VARIANTS[name]
    mix = variant.make(registry, tmp_path)
    export(registry, "mix", tmp_path / "stock", format=variant.format)
    ids = mix.tokenizer("def area(radius):<pad>\n    return 3.14")["input_ids"]
    assert 2 in ids  # a pad token inside a text is a token like any other
    expected = generated(mix.model, ids, 12)
    transformers = Transformers(tmp_path / "stock")
    assert transformers.model.config.hidden_size % 32 == 0
    assert transformers.model.config.moe_intermediate_size % 32 == 0
    readers = [transformers, *([exported(registry, tmp_path, dtype="float32")] if variant.gguf else [])]
    for reader in readers:
        assert largest_difference(mix, reader) < CLOSE["float32"]
        assert reader.greedy(ids, count=12) == expected
