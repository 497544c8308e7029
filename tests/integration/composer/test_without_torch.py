"""Composing without training and exporting to stock formats do not import torch, whose import takes longer."""

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
RUN = (
    "import sys; from ui.cli import main; code = main(sys.argv[1:]); "
    f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr); sys.exit(code)"
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


def imported(home, *command, **environment):
    """The heavy packages that a command imports."""
    ran = subprocess.run(
        [sys.executable, "-c", RUN, "--home", home, *command, "--json"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stderr.splitlines()[-1]


@pytest.mark.parametrize("router", sorted(ROUTERS))
def test_composing_without_training_and_exporting_import_no_torch(home, tmp_path, router):
    untrained = ("--experts", "code,math", "--tokens", "0", "--no-warm-start", "--router", router)
    assert imported(home, "compose", router, "--seed", "pico", *untrained) == "[]"
    if ROUTERS[router].not_linear:
        return
    out = tmp_path / "out"
    assert imported(home, "export", router, str(out), "--format", "qwen2_moe") == "[]"
    assert map_tensors(out / "model.safetensors")["model.embed_tokens.weight"].dtype == torch.bfloat16


def test_whole_experts_measured_before_are_composed_without_torch(home):
    given = ("--seed", "pico", "--experts", "code@1,math@1")
    assert "torch" in imported(home, "compose", "first", *given)
    assert imported(home, "compose", "again", *given) == "[]"
    registry = open_registry(home)
    first, again = (queries.get_mix(registry, name) for name in ("first", "again"))
    registry.engine.dispose()
    assert first.manifest == again.manifest


def test_contributing_imports_no_torch_and_no_index(home):
    root = home.parent
    given = ("--seed", "pico", "--license", "MIT", "--data", str(root / "code.jsonl"))
    command = ("contribute", "code", str(root / "code"), *given)
    assert imported(home, *command, NEXUSMIX_EMBEDDER="hashing:16") == "[]"
