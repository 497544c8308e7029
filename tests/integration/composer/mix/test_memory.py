"""An open mix is memory-mapped: experts that receive no token stay on the disk."""

import sys
from pathlib import Path

import pico
import pytest
import torch

from composer.composition import compose
from composer.mix.masking import mask
from composer.mix.opening import open_mix
from composer.mix.recipe import Recipe, Training
from registry.intake.intake import add_seed, contribute

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the kernel's /proc/self/smaps")


def resident(path: Path) -> int:
    """Bytes of the file that are resident in this process's memory, over all mappings of the file."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0] and not line.endswith("kB"):
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def test_an_expert_that_no_token_reaches_stays_out_of_memory(registry, tmp_path):
    seed = pico.write_pico(tmp_path / "seed", hidden_size=256, intermediate_size=2048)
    add_seed(registry, "pico", seed, license="MIT")
    for number, name in enumerate(("code", "math"), 1):
        folder = pico.branch_pico(seed, tmp_path / name, seed=number, roles="ffn")
        data = pico.write_documents(tmp_path / f"{name}.jsonl", name)
        contribute(registry, name, folder, seed="pico", license="MIT", data=[data])
    untrained = Training(tokens=0, warm_start=False)
    experts = ["code", "math"]
    recipe = Recipe(name="m", seed="pico", experts=experts, trunk_merge="regmean", training=untrained)
    mix = compose(registry, recipe)
    opened = open_mix(registry, mix.manifest)
    with torch.inference_mode(), mask(opened.model, [0]):
        opened.model(torch.arange(3, 200)[None])
    used, unused = (registry.blobs.path(m.ffn, verify=False) for m in mix.manifest.members)
    size = used.stat().st_size
    assert resident(used) > 0.9 * size
    assert resident(unused) < 0.1 * size
