"""Untrusted adapter configurations: thousands of mutations raise only the package's own errors."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from composer.experts.adapter import read_adapter
from registry.errors import RegistryError

MUTATIONS = 10_000
MODULES = [f"model.layers.{layer}.mlp.{name}" for layer in range(2) for name in ("up_proj", "down_proj")]
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "base_model_name_or_path": "acme/pico",
    "bias": "none",
    "r": 2,
    "lora_alpha": 4,
    "use_rslora": False,
    "init_lora_weights": True,
    "target_modules": ["up_proj", "down_proj"],
    "rank_pattern": {},
    "alpha_pattern": {"up_proj": 8},
    "modules_to_save": None,
    "layers_to_transform": None,
    "exclude_modules": None,
}
# As JSON text: no Python value produces some of them.
ODD = [
    *("null", "true", "false", "0", "-1", "2", "2.0", "0.5", "1e999", "-1e400", "1e300", "NaN", "-Infinity"),
    *("1" * 401, "9" * 5_000, "1e-400", '""', '"LORA"', '"' + "x" * 5_000 + '"', '"\\ud800"', '"\\u0000\\n"'),
    *(
        "[]",
        "{}",
        "[[]]",
        '{"": {}}',
        '{"up_proj": 0}',
        '{"up_proj": 1e999}',
        '["up_proj", 1]',
        "[" * 200_000,
    ),
    *("[" * 400 + "]" * 400, '{"a": ' * 300 + "1" + "}" * 300, '{"(a+)+$": 2}', '{"a": 1, "a": 2}'),
    *('{"\\udfff": 1}', "[" + "2," * 500 + "2]", "[" + '"y",' * 500 + '"y"]', '"\\u202e"', "\udc80"),
    "{" + ",".join(f'"{letter * 90}": "{letter * 90}"' for letter in "abcdefghij") + "}",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter of four projections."""
    tensors = {}
    for module in MODULES:
        tensors[f"base_model.model.{module}.lora_A.weight"] = np.ones((2, 4), dtype=np.float32)
        tensors[f"base_model.model.{module}.lora_B.weight"] = np.ones((4, 2), dtype=np.float32)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    return tmp_path


def mutated(random_: random.Random) -> bytes:
    """The configuration with fields removed, doubled, added or replaced, and sometimes with a broken byte."""
    fields = [(json.dumps(field), json.dumps(value)) for field, value in CONFIG.items()]
    for _ in range(random_.choice((1, 1, 2, 5))):
        place = random_.randrange(len(fields))
        kind = random_.random()
        if kind < 0.7:
            fields[place] = (fields[place][0], random_.choice(ODD))
        elif kind < 0.8 and len(fields) > 1:
            del fields[place]
        elif kind < 0.85:
            fields.append(fields[place])
        else:
            key = random_.choice(["use_dora", "x" * 300, "\\ud83d", "\\u001b[31m"])
            fields.append((f'"{key}{place}"', random_.choice(ODD)))
    text = "{" + ",".join(f"{field}: {value}" for field, value in fields) + "}"
    content = bytearray(text.encode("utf-8", "surrogateescape"))
    if random_.random() < 0.1:
        content[random_.randrange(len(content))] = random_.randrange(256)
    return bytes(content)


def test_a_mutated_configuration_is_read_or_refused_in_one_short_line(folder: Path) -> None:
    random_ = random.Random(0)
    read = 0
    for _ in range(MUTATIONS):
        (folder / "adapter_config.json").write_bytes(mutated(random_))
        try:
            adapter = read_adapter(folder)
        except RegistryError as error:
            message = str(error).replace(str(folder), "")
            assert message.isprintable() and len(message) < 1_000, message
            assert all(len(reason) < 400 for reason in getattr(error, "mismatches", ()))
        else:
            read += 1
            json.dumps(adapter.config, allow_nan=False, ensure_ascii=False).encode()
            assert all(np.isfinite(low_rank.scale) for low_rank in adapter.sums.values())
    assert 0 < read < MUTATIONS
