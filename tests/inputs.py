"""The table of docs/INPUTS.md: what people bring, and what happens: python -m tests.inputs docs/INPUTS.md writes it.

Each row is made and tried, with pico models: nothing in the table is only said.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests import pico

Build = Callable[[Path, Path], object]  # the folder to make, and a folder with `seed` and `expert`

HEADING = """# Inputs

What people bring, and what nexusmix does with it. A test makes each input from a model of a few kilobytes, tries it,
and compares this page with the outcome; `python -m tests.inputs docs/INPUTS.md` writes it again. FOLDER and SEED are
names.
"""
CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}


def of_expert(change: Callable[[Path], object]) -> Build:
    """A copy of an expert's folder with a change."""

    def build(folder: Path, given: Path) -> None:
        shutil.copytree(given / "expert", folder)
        change(folder)

    return build


def of_config(**changes: Any) -> Build:
    """An expert with other fields in config.json."""
    return of_expert(lambda folder: pico.edit_config(folder, **changes))


def of_tokens(change: Callable[[dict[str, Any]], object], file: str = "tokenizer.json") -> Build:
    """An expert with a change in a JSON file of its tokenizer."""

    def edit(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        change(content)
        (folder / file).write_text(json.dumps(content))

    return of_expert(edit)


def of_tensors(change: Callable[[dict[str, Any]], object]) -> Build:
    """An expert with a change in its tensors."""

    def edit(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return of_expert(edit)


def prefixed(prefix: str) -> Build:
    """An expert whose tensors have the names of a wrapper."""

    def change(tensors: dict[str, Any]) -> None:
        for name in list(tensors):
            tensors[prefix + name] = tensors.pop(name)

    return of_tensors(change)


def of_adapter(**settings: Any) -> Build:
    """A LoRA adapter that PEFT wrote, with random updates."""

    def build(folder: Path, given: Path) -> None:
        import peft
        import torch
        from safetensors.torch import load_file, save_file
        from transformers import AutoModelForCausalLM

        edits = settings.pop("config", {}) if "config" in settings else {}
        base = AutoModelForCausalLM.from_pretrained(given / "seed")
        options = {"r": 2, "target_modules": ["up_proj"], "init_lora_weights": False, **settings}
        torch.manual_seed(0)
        peft.get_peft_model(base, peft.LoraConfig(**options)).save_pretrained(
            folder, save_embedding_layers=False
        )
        weights = load_file(folder / "adapter_model.safetensors")
        trained = {name: value + 0.01 * ("lora_" not in name) for name, value in weights.items()}
        save_file(trained, folder / "adapter_model.safetensors")
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **edits}))

    return build


def _unchanged(folder: Path, given: Path) -> None:
    shutil.copytree(given / "seed", folder)


def _unrelated(folder: Path, given: Path) -> None:
    pico.write_pico(folder, seed=99)


def _both(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _new_token(tokenizer: dict[str, Any]) -> None:
    tokenizer["added_tokens"].append({"id": 267, "content": "<|im_start|>", "special": True})


def _own_head(tensors: dict[str, Any]) -> None:
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 0.1


def _untied(folder: Path) -> None:
    pico.edit_config(folder, tie_word_embeddings=True)


def _padded(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name].new_zeros(320, 32).index_copy_(0, _range(267), tensors[name])
    save_file(tensors, folder / "model.safetensors")
    pico.edit_config(folder, vocab_size=320)


def _range(count: int) -> Any:
    import torch

    return torch.arange(count)


WEIGHTS: dict[str, Build] = {
    "a fine-tune of the seed": of_expert(lambda folder: None),
    "weights in float16 or bfloat16": of_tensors(
        lambda t: [t.update({n: v.half()}) for n, v in list(t.items())]
    ),
    "names of torch.compile (`_orig_mod.`)": prefixed("_orig_mod."),
    "names of DistributedDataParallel (`module.`)": prefixed("module."),
    "another pad token": of_tokens(lambda t: t.update(pad_token="</s>"), "tokenizer_config.json"),
    "another end token, which the seed knows": of_tokens(
        lambda t: t.update(eos_token="<pad>"), "tokenizer_config.json"
    ),
    "another `eos_token_id`, or a list": of_config(eos_token_id=[1, 2]),
    "another `max_position_embeddings`, default RoPE": of_config(max_position_embeddings=8192),
    "an embedding padded to another size": of_expert(_padded),
    "added tokens that the seed lacks": of_tokens(_new_token),
    "another vocabulary": of_tokens(lambda t: t["model"]["vocab"].update({"the": 259, "th": 260})),
    "another RoPE base": of_config(rope_parameters={"rope_type": "default", "rope_theta": 1.0}),
    "`quantization_config: {}`": of_config(quantization_config={}),
    "GPTQ, AWQ, bitsandbytes": of_config(quantization_config={"quant_method": "gptq"}),
    "weights equal to the seed's": _unchanged,
    "a model of the same shape that was not trained from the seed": _unrelated,
    "a model and an adapter in one folder": of_expert(_both),
    "a head of its own and `tie_word_embeddings: true`": of_expert(_untied),
    "pickled weights": of_expert(_pickle),
    "custom code (`auto_map`)": of_config(auto_map={"AutoModel": "evil.py"}),
    "a configuration that is not JSON": of_expert(lambda f: (f / "config.json").write_text("{")),
}
ADAPTERS: dict[str, Build] = {
    "LoRA of projections": of_adapter(),
    "rank-stabilised LoRA": of_adapter(use_rslora=True),
    "`rank_pattern` and `alpha_pattern`": of_adapter(
        rank_pattern={"up_proj": 3}, alpha_pattern={"up_proj": 5}
    ),
    "DoRA": of_adapter(use_dora=True),
    "`modules_to_save`": of_adapter(modules_to_save=["lm_head"]),
    "LoRA of the embedding": of_adapter(target_modules=["embed_tokens"]),
    "LoRA of the head": of_adapter(target_modules=["lm_head"]),
    "`trainable_token_indices`": of_adapter(trainable_token_indices=[3]),
    "trained biases": of_adapter(config={"bias": "all"}),
    "PiSSA": of_adapter(config={"init_lora_weights": "pissa"}),
    "prefix tuning and other methods": of_adapter(config={"peft_type": "PREFIX_TUNING"}),
    "an adapter without an update": of_adapter(init_lora_weights=True),
}
DATA: dict[str, tuple[str, bytes]] = {
    "JSON lines": ("a.jsonl", b'{"text": "one"}\n'),
    "JSON lines, in gzip": ("a.jsonl.gz", gzip.compress(b'{"text": "one"}\n')),
    "a JSON array": ("a.json", b'[{"text": "one"}]'),
    "CSV": ("a.csv", b"text,id\none,1\n"),
    "text in UTF-16 with a byte order mark": ("a.txt", "one".encode("utf-16")),
    "rows of messages": ("a.jsonl", json.dumps(CHAT).encode()),
    "rows of instruction, input and output": (
        "a.jsonl",
        b'{"instruction": "Add.", "input": "1 2", "output": "3"}\n',
    ),
    "rows of prompt and completion": ("a.jsonl", b'{"prompt": "Add.", "completion": "3"}\n'),
    "a row without text after others": ("a.jsonl", b'{"text": "one"}\n{"id": 2}\n'),
    "a table without text": ("a.csv", b"title,body\na,b\n"),
    "text in an unknown encoding": ("a.txt", "größer".encode("latin-1")),
    "a truncated gzip": ("a.jsonl.gz", gzip.compress(b'{"text": "one"}\n' * 99)[:40]),
    "a line that is not JSON": ("a.jsonl", b"one\n"),
}


def _outcome(work: Callable[[], str], *, folder: Path) -> str:
    from composer.errors import ComposerError
    from registry.errors import RegistryError
    from ui.wording.failures import describe

    try:
        return work()
    except (RegistryError, ComposerError) as error:
        said = describe(error)[0].removeprefix("error: ").replace(str(folder), "FOLDER")
        said = re.sub(r"Expecting [^']*", "…", said)  # the words of Python's own parser
        return f"refused: {said.replace(folder.name, 'FOLDER').replace('SEED SEED', 'SEED')}"


def _weights(registry: Any, folder: Path) -> str:
    from composer.experts.adapter import is_adapter
    from composer.experts.lora import place_adapter
    from registry.blobs import read_files
    from registry.catalog import queries
    from registry.checkpoints.preflight import check_expert
    from registry.intake.weights import checkpoint_weights

    seed = queries.get_seed(registry, "SEED")
    if is_adapter(folder):
        return (
            "accepted, stored as it is"
            if place_adapter(registry, "SEED", folder).is_sum
            else "accepted, merged"
        )
    with ExitStack() as stack:
        checkpoint = check_expert(seed, read_files(registry.blobs, seed.files), folder)
        weights = checkpoint_weights(registry, seed, checkpoint, stack)
        weights.check(registry, seed, allow_unchanged=False, allow_unrelated=False)
        remarks = ", ".join(
            f"{name.replace('_', ' ')}: {'; '.join(each)}" for name, each in weights.remarks.items()
        )
        return f"accepted ({remarks})" if remarks else "accepted"


def _data(path: Path) -> str:
    from registry.domains.reading import read_documents
    from registry.domains.skipped import Skipped, in_words

    skipped = Skipped()
    texts = [json.dumps(text) for text in read_documents(path, skipped=skipped)]
    counts = in_words(skipped.counts())
    return f"read: {', '.join(texts)}" + (f"; left out: {counts}" if counts else "")


def rows(root: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the group, the input and the outcome of each row; everything is written below `root`."""
    from registry.home import open_registry
    from registry.intake.intake import add_seed

    pico.write_pico(root / "seed")
    pico.branch_pico(root / "seed", root / "expert", seed=1)
    registry = open_registry(root / "home", embedder="hashing:16")
    add_seed(registry, "SEED", root / "seed", license="MIT")
    try:
        for group, builds in (("Weights", WEIGHTS), ("Adapters", ADAPTERS)):
            for number, (name, build) in enumerate(builds.items()):
                folder = root / f"{group}-{number}"
                build(folder, root)
                yield group, name, _outcome(lambda: _weights(registry, folder), folder=folder)  # noqa: B023
    finally:
        registry.engine.dispose()
    for number, (name, (file, content)) in enumerate(DATA.items()):
        folder = root / f"Data-{number}"
        folder.mkdir()
        (folder / file).write_bytes(content)
        yield "Data", name, _outcome(lambda: _data(folder / file), folder=folder)  # noqa: B023


def page(root: Path) -> str:
    """Return the whole page."""
    text, last = HEADING, ""
    for group, name, outcome in rows(root):
        if group != last:
            text += f"\n## {group}\n\n| Input | Outcome |\n|---|---|\n"
            last = group
        cell = re.sub(r"\s+", " ", outcome).replace("|", "\\|").replace("<", "&lt;")
        text += f"| {name} | {cell} |\n"
    return text


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        Path(sys.argv[1]).write_text(page(Path(temporary)), encoding="utf-8")
