"""Composing without training and exporting to stock formats do not import torch, whose import takes longer."""

import json
import os
import subprocess
import sys

import pico
import pytest
import torch

from composer.tensors.torch_blobs import map_tensors
from composer.variants import ROUTERS
from registry.catalog import queries
from registry.home import open_registry
from registry.intake.intake import add_seed, contribute

HEAVY = ("torch", "transformers", "scipy", "faiss", "sentence_transformers")
# Runs the commands of a JSON list one after the other, and prints what was imported after each.
RUN = (
    "import json, sys; from ui.cli import main\n"
    "for command in json.loads(sys.argv[1]):\n"
    "    assert main(command) == 0, command\n"
    f"    print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    root = tmp_path_factory.mktemp("plain")
    registry = open_registry(root / "home", embedder="hashing:16")
    seed = pico.write_pico(root / "seed", dtype="bfloat16")
    add_seed(registry, "pico", seed, license="MIT")
    for number, name in enumerate(("code", "math"), 1):
        folder = pico.branch_pico(seed, root / name, seed=number)
        data = pico.write_documents(root / f"{name}.jsonl", name)
        contribute(registry, name, folder, seed="pico", license="MIT", data=[data])
    registry.engine.dispose()
    return root / "home"


def imported(home, *commands, **environment):
    """The heavy packages that are imported after each of the commands, which one process runs."""
    whole = [["--home", str(home), *command, "--json"] for command in commands]
    ran = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(whole)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return [line for line in ran.stderr.splitlines() if line.startswith("[")]


def test_composing_without_training_and_exporting_import_no_torch(home, tmp_path):
    untrained = ("--seed", "pico", "--experts", "code,math", "--tokens", "0", "--no-warm-start")
    exported = [router for router in sorted(ROUTERS) if not ROUTERS[router].not_linear]
    assert exported
    commands = [
        *(("compose", router, *untrained, "--router", router) for router in sorted(ROUTERS)),
        *(("export", router, str(tmp_path / router), "--format", "qwen2_moe") for router in exported),
    ]
    assert imported(home, *commands) == ["[]"] * len(commands)
    for router in exported:
        tensors = map_tensors(tmp_path / router / "model.safetensors")
        assert tensors["model.embed_tokens.weight"].dtype == torch.bfloat16


def test_whole_experts_measured_before_are_composed_without_torch(home):
    given = ("--seed", "pico", "--experts", "code@1,math@1")
    assert "torch" in imported(home, ("compose", "first", *given))[0]
    assert imported(home, ("compose", "again", *given)) == ["[]"]
    registry = open_registry(home)
    first, again = (queries.get_mix(registry, name) for name in ("first", "again"))
    registry.engine.dispose()
    assert first.manifest == again.manifest


def test_contributing_imports_no_torch_and_no_index(home):
    root = home.parent
    given = ("--seed", "pico", "--license", "MIT", "--data", str(root / "code.jsonl"))
    command = ("contribute", "code", str(root / "code"), *given)
    assert imported(home, command, NEXUSMIX_EMBEDDER="hashing:16") == ["[]"]
