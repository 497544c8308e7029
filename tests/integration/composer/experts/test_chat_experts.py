"""Chat tunes: rows of messages are trained on, contributed and embedded as the model will read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pico
import pytest

from composer.experts.contribution import contribute
from composer.experts.train import train_expert
from registry.blobs import read_files
from registry.domains import documents
from registry.home import Registry, open_registry
from registry.intake.intake import add_seed

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_chats(path: Path, domain: str, count: int = 60) -> Path:
    """Rows of messages whose questions are all alike."""
    rows = [
        {"messages": [{"role": "user", "content": "Tell me."}, {"role": "assistant", "content": text}]}
        for text in pico.domain_documents(domain, count, words=20)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    opened = open_registry(tmp_path / "home", embedder="hashing:64")
    add_seed(opened, "plain", pico.write_pico(tmp_path / "seed"), license="MIT")
    yield opened
    opened.engine.dispose()


def test_a_chat_expert_is_trained_and_contributed_with_one_template(
    registry: Registry, tmp_path: Path
) -> None:
    (tmp_path / "chatml.jinja").write_text(CHATML)
    chats = write_chats(tmp_path / "law.jsonl", "law")
    plain = pico.write_documents(tmp_path / "plain.jsonl", "law")
    result = train_expert(
        registry, "plain", chats, tmp_path / "law", tokens=2048, chat_template=tmp_path / "chatml.jinja"
    )
    expert = contribute(registry, "law", result.folder, seed="plain", license="MIT", data=chats)
    assert (
        expert.chat_template is not None
        and registry.blobs.read_bytes(expert.chat_template).decode() == CHATML
    )
    assert expert.sample is not None
    sample = documents.load_documents(registry.blobs, expert.sample)
    assert all(
        text.startswith("<|im_start|>user\nTell me.<|im_end|>\n<|im_start|>assistant\n") for text in sample
    )

    # The template's words do not make the domain: it is as near to the plain text as without them.
    other = contribute(registry, "same", result.folder, seed="plain", license="MIT", data=plain)
    one, two = expert.embedding.mean, other.embedding.mean
    assert one @ two / np.linalg.norm(one) / np.linalg.norm(two) > 0.9


def test_the_prompt_is_read_but_not_learnt(registry: Registry, tmp_path: Path) -> None:
    rows = [
        {"prompt": pico.domain_documents("law", 1, words=30, seed=n)[0], "completion": "a a a a a a a a"}
        for n in range(80)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = train_expert(
        registry, "plain", tmp_path / "rows.jsonl", tmp_path / "out", tokens=8192, learning_rate=2e-2
    )
    # The answers are one repeated token; the questions cannot be learnt so soon.
    assert result.last_loss < 2.5 < 5 < result.first_loss


def test_the_seeds_template_renders_the_rows_of_an_expert_without_one(
    registry: Registry, tmp_path: Path
) -> None:
    seed = pico.write_pico(tmp_path / "talking-seed")
    (seed / "chat_template.jinja").write_text(CHATML)
    record = add_seed(registry, "talking", seed, license="MIT")
    expert = pico.branch_pico(seed, tmp_path / "expert", seed=1)
    (expert / "chat_template.jinja").unlink()
    chats = write_chats(tmp_path / "law.jsonl", "law")
    published = contribute(registry, "law", expert, seed="talking", license="MIT", data=chats)
    assert published.chat_template is None and published.sample is not None
    assert documents.load_documents(registry.blobs, published.sample)[0].startswith("<|im_start|>user")
    assert "chat_template.jinja" in read_files(registry.blobs, record.files)
