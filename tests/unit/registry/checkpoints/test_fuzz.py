"""Ten thousand seeded mutations of each JSON file that strangers bring: each is read, or refused with our error."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pico
import pytest

from registry.checkpoints.configs import config_mismatches
from registry.checkpoints.families import assign_roles, family_of
from registry.checkpoints.safe_files import parse_json
from registry.checkpoints.tensors import TensorInfo, read_header
from registry.checkpoints.tokenizers import (
    chat_template,
    largest_id,
    new_tokens,
    special_tokens,
    tokenizer_mismatches,
)
from registry.checkpoints.vocabulary import token_rows
from registry.errors import RegistryError

TRIALS = 10_000
JUNK: list[Any] = [
    *(None, True, False, -1, 0, 1, 2**40, 10**400, 0.5, 1e308, "", "x" * 300, "\ud800", "silu", "<s>"),
    *([], [[]], [None], [1, 2], ["a", "b"], {}, {"a": {}}, {"content": []}, {"type": "Split"}),
]


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pico seed with a small vocabulary."""
    return pico.write_pico(tmp_path_factory.mktemp("fuzz") / "seed")


def mutated(content: Any, source: random.Random) -> Any:
    """A copy with one to three values, keys or entries replaced, removed, doubled or added."""
    content = copy.deepcopy(content)
    for _ in range(source.choice((1, 1, 2, 3))):
        place: Any = content
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = source.choice(keys)
            inner = place[key]
            if isinstance(inner, dict | list) and inner and source.random() < 0.7:
                place = inner
                continue
            kind = source.random()
            if kind < 0.7:
                place[key] = copy.deepcopy(source.choice(JUNK))
            elif kind < 0.85:
                del place[key]
            elif isinstance(place, list):
                place.insert(key, copy.deepcopy(inner))
            else:
                place[f"{key}x"] = inner
            break
    return content


def refused(work: Any) -> bool:
    """Whether the work raised an error of the tree; its message is one short line."""
    try:
        work()
    except RegistryError as error:
        assert "\n" not in str(error) and len(str(error)) < 4_000
        return True
    return False


def test_no_configuration_ends_outside_the_error_tree(seed: Path) -> None:
    given = json.loads((seed / "config.json").read_text())
    infos: dict[str, TensorInfo] = read_header(seed / "model.safetensors")
    source = random.Random(0)

    def read(text: bytes) -> None:
        config = parse_json(text, "config.json")
        family = family_of(config)
        config_mismatches(family, given, config)
        config_mismatches(family, config, given)
        assign_roles(family, config, infos)

    count = sum(refused(lambda: read(json.dumps(mutated(given, source)).encode())) for _ in range(TRIALS))
    assert 0 < count < TRIALS


def test_no_tokenizer_ends_outside_the_error_tree(seed: Path) -> None:
    files = {name: (seed / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")}
    whole = json.loads(files["tokenizer.json"])
    vocabulary = whole["model"]["vocab"]
    whole["model"]["vocab"] = {token: vocabulary[token] for token in list(vocabulary)[:24]}
    whole["model"]["merges"] = whole["model"]["merges"][:3]
    settings = json.loads(files["tokenizer_config.json"])
    base = {
        "tokenizer.json": json.dumps(whole).encode(),
        "tokenizer_config.json": files["tokenizer_config.json"],
    }
    source = random.Random(1)

    def read(own: dict[str, bytes]) -> None:
        tokenizer_mismatches(base, own)
        largest_id(own)
        new_tokens(base, own)
        token_rows(base, own, 32, 40)
        chat_template(own)
        special_tokens(own)

    count = 0
    for trial in range(TRIALS):
        own = dict(base)
        if trial % 3:
            own["tokenizer.json"] = json.dumps(mutated(whole, source)).encode()
        else:
            own["tokenizer_config.json"] = json.dumps(mutated(settings, source)).encode()
        count += refused(lambda own=own: read(own))
    assert count < TRIALS
