"""Tunes with another vocabulary: padded, cut or reordered rows, and tokens that the seed lacks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pico
import pytest
import torch
from safetensors.torch import load_file

from composer.experts import extend_seed as extending
from composer.experts.extend_seed import extend_seed
from composer.mix.lock import lock_expert, lock_seed
from composer.mix.opening import open_expert, open_tokenizer
from registry.catalog import queries
from registry.errors import ConflictError, IncompatibleError, InvalidInputError
from registry.home import Registry, open_registry
from registry.intake.intake import add_seed, contribute

CHAT = ["<|im_start|>", "<|im_end|>"]
ROWS = 267  # of a pico seed without padding


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.setattr(extending, "check_runs", lambda folder: None)  # tested in test_dry_run.py
    opened = open_registry(tmp_path / "home", embedder="hashing:16")
    add_seed(opened, "base", pico.write_pico(tmp_path / "seed"), license="MIT")
    yield opened
    opened.engine.dispose()


def write_tune(
    folder: Path, source: Path, *, tokens: list[str] = CHAT, rows: int | None = None, **flags: Any
) -> Path:
    """A tune of a folder with added tokens and noise on every weight."""
    from transformers import AddedToken, AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False, **flags) for token in tokens])
    with torch.no_grad():
        model.resize_token_embeddings(rows or len(tokenizer), mean_resizing=False)
        for place, parameter in enumerate(model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(place))
            parameter.add_(noise * 0.02)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def published(registry: Registry, folder: Path, tmp_path: Path, seed: str = "base") -> Any:
    data = pico.write_documents(tmp_path / "law.jsonl", "law")
    return contribute(registry, folder.name, folder, seed=seed, license="MIT", data=data)


def logits(registry: Registry, ref: str, ids: torch.Tensor) -> torch.Tensor:
    expert = queries.get_expert(registry, ref)
    model = open_expert(registry, lock_seed(queries.get_seed(registry, expert.seed)), lock_expert(expert))
    with torch.inference_mode():
        return model(ids).logits


@pytest.mark.parametrize("rows", [ROWS + 61, ROWS - 1])
def test_padding_of_a_vocabulary_does_not_matter(registry: Registry, tmp_path: Path, rows: int) -> None:
    """267 rows include the last merge, so that a cut vocabulary lacks a token and is refused."""
    tune = write_tune(tmp_path / "tune", tmp_path / "seed", tokens=[], rows=rows)
    if rows < ROWS:
        with pytest.raises(
            IncompatibleError, match=f"token id {ROWS - 1}, but the embedding has {rows} rows"
        ):
            published(registry, tune, tmp_path)
        return
    expert = published(registry, tune, tmp_path)
    ids = torch.arange(ROWS)[None]
    from transformers import AutoModelForCausalLM

    with torch.inference_mode():
        expected = AutoModelForCausalLM.from_pretrained(tune)(ids).logits[..., :ROWS]
    torch.testing.assert_close(logits(registry, expert.ref, ids), expected)
    assert "vocabulary" in expert.provenance


def test_the_remedy_for_new_tokens_works_and_two_tunes_with_other_orders_share_the_seed(
    registry: Registry, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    one = write_tune(tmp_path / "one", tmp_path / "seed")
    two = write_tune(tmp_path / "two", tmp_path / "seed", tokens=["<tool>", *CHAT], rows=320)
    with pytest.raises(IncompatibleError, match="nexusmix seed extend NEW --seed"):
        published(registry, one, tmp_path)
    seed = extend_seed(registry, "chat", "base", [one, two])
    tokenizer = open_tokenizer(registry.blobs, seed.files)
    names = [*CHAT, "<tool>"]
    assert tokenizer.convert_tokens_to_ids(names) == [ROWS, ROWS + 1, ROWS + 2]
    text = "the<|im_start|>other<tool>the<|im_end|>"
    for folder in (one, two):
        expert = published(registry, folder, tmp_path, "chat")
        own = pico_tokenizer(folder)
        words = text if folder == two else text.replace("<tool>", "")
        with torch.inference_mode():
            expected = AutoModelForCausalLM.from_pretrained(folder)(
                own(words, return_tensors="pt")["input_ids"]
            ).logits
        ours = logits(registry, expert.ref, tokenizer(words, return_tensors="pt")["input_ids"])
        places = [
            own.convert_tokens_to_ids(token) for token in tokenizer.convert_ids_to_tokens(range(ROWS + 2))
        ]
        torch.testing.assert_close(ours[..., : ROWS + 2], expected[..., places])


def pico_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def test_an_extended_seed_computes_as_before_and_new_rows_are_the_mean(
    registry: Registry, tmp_path: Path
) -> None:
    tune = write_tune(tmp_path / "tune", tmp_path / "seed")
    seed = extend_seed(registry, "chat", "base", tune)
    old = load_file(tmp_path / "seed" / "model.safetensors")["model.embed_tokens.weight"]
    new = load_file(registry.blobs.path(seed.trunk))["model.embed_tokens.weight"]
    assert new.shape == (ROWS + 2, 32) and torch.equal(new[:ROWS], old)
    torch.testing.assert_close(new[ROWS:], old.mean(0).expand(2, -1))


def test_extensions_that_add_nothing_or_contradict_each_other_are_refused(
    registry: Registry, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError, match="contribute to base itself"):
        extend_seed(registry, "chat", "base", tmp_path / "seed")
    one = write_tune(tmp_path / "one", tmp_path / "seed")
    two = write_tune(tmp_path / "two", tmp_path / "seed", lstrip=True)
    with pytest.raises(ConflictError, match=r"'<\|im_start\|>' is defined otherwise"):
        extend_seed(registry, "chat", "base", [one, two])
