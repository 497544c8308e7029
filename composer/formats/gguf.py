"""Format `gguf`: one file for llama.cpp and software built on it, in a stock architecture.

The tensors are those of format `qwen2_moe`, or of glm4_moe.py for Qwen3 seeds, or of step35.py for the rotary embedding
of Llama 3, with each block's experts stacked.
Vectors and the routers' gates are always float32, as llama.cpp requires. The file is streamed, so only pieces of
tensors are in memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from composer.chat.templates import adopted_template
from composer.errors import ExportError
from composer.formats import glm4_moe, qwen2_moe, qwen3_next, step35
from composer.formats.expressible import FORMATS
from composer.formats.folder import refuse_overflow, require_room
from composer.formats.gguf_tokenizer import add_tokenizer
from composer.formats.modelfile import modelfile
from composer.formats.plan import DTYPES as FLOATS
from composer.formats.plan import Format, Plan
from composer.formats.quantize import Quantizer
from composer.mix.opening import Manifest, open_tokenizer, seed_config
from composer.progress import Progress
from composer.tensors.rows import Below, Given, Rows, pieces
from composer.tensors.stream import stored_tensors
from registry.blobs import BlobStore
from registry.checkpoints.tensors import DTYPE_BYTES

FILE = "model.gguf"
# llama.cpp's names of the stock architectures.
ARCHITECTURES: Mapping[str, str] = {
    qwen2_moe.NAME: "qwen2moe",
    glm4_moe.NAME: "glm4moe",
    step35.NAME: "step35",
}
DTYPES: Mapping[str, str] = {**FLOATS, "q8_0": "Q8_0"}
# Rotary embeddings that llama.cpp and transformers compute equally for these architectures.
ROPES = ("default", "linear", "yarn")
YARN: Mapping[str, str] = {
    "original_max_position_embeddings": "add_rope_scaling_orig_ctx_len",
    "beta_fast": "add_rope_scaling_yarn_beta_fast",
    "beta_slow": "add_rope_scaling_yarn_beta_slow",
}
# On GPUs, llama.cpp may round float32 factors to float16, in which 1e-20 becomes 0. This is float16's smallest
# positive number. It moves the sigmoid from ½ by less than float32's other rounding errors.
NEARLY_ZERO = 2.0**-24
GATES = (qwen2_moe.GATE, qwen2_moe.SHARED_GATE)
BLOCK = 32  # numbers that share a scale in Q8_0


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file. `values` is a matrix or vector: the leading axes of `shape` are joined with its rows."""

    values: Rows
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Size in the file in bytes. A block of Q8_0 is 32 one-byte numbers and a two-byte scale."""
        count = math.prod(self.shape)
        return count // BLOCK * (BLOCK + 2) if self.dtype == "Q8_0" else count * DTYPE_BYTES[self.dtype]

    def pieces(self) -> Iterator[np.ndarray]:
        """Yield the stored form of the tensor in pieces, from its first row to its last."""
        if self.dtype != "Q8_0":
            yield from pieces(self.values, self.dtype)
            return
        from gguf import GGMLQuantizationType, quantize

        for piece in pieces(self.values, "F32"):
            yield quantize(piece, GGMLQuantizationType.Q8_0)


@dataclass(frozen=True)
class GgufPlan:
    """A GGUF file to be written; `writer` (a GGUFWriter) contains its metadata."""

    writer: Any
    tensors: dict[str, Tensor]
    dtype: str
    files: dict[str, bytes] = field(default_factory=dict)

    def write(self, folder: Path, *, max_shard_bytes: int, progress: Progress) -> int:
        """Write `model.gguf`. Returns the size of the tensors in bytes. Raises ExportError, StorageError."""
        from gguf import GGMLQuantizationType

        total = sum(tensor.nbytes for tensor in self.tensors.values())
        require_room(folder, total)
        for name, tensor in self.tensors.items():
            kind = GGMLQuantizationType[tensor.dtype]
            self.writer.add_tensor_info(
                name, tensor.shape, np.dtype(np.float32), tensor.nbytes, raw_dtype=kind
            )
        try:
            self.writer.write_header_to_file(folder / FILE)
            self.writer.write_kv_data_to_file()
            self.writer.write_ti_data_to_file()
            self._write_tensors(progress, total)
        finally:
            self.writer.close()
        return total

    def _write_tensors(self, progress: Progress, total: int) -> None:
        stream, done = self.writer.fout[0], 0
        self.writer.write_padding(stream, stream.tell())
        for name, tensor in self.tensors.items():
            for piece in tensor.pieces():
                refuse_overflow(name, piece)
                stream.write(np.ascontiguousarray(piece).data)
            self.writer.write_padding(stream, tensor.nbytes)
            done += tensor.nbytes
            progress("writing tensors", done, total)


def plan(blobs: BlobStore, manifest: Manifest, dtype: str) -> GgufPlan:
    """Plan the GGUF file. Raises ExportError with the reasons if llama.cpp cannot express the mix."""
    from gguf import GGUFWriter, LlamaFileType

    dtype = "F32" if dtype == "F64" else dtype
    found = FORMATS.get(str(seed_config(blobs, manifest.seed).get("model_type")))
    stock_plan = glm4_moe.plan if found == qwen3_next.NAME else qwen2_moe.plan
    stock = stock_plan(blobs, manifest, dtype if dtype in DTYPE_BYTES else "F32")
    rope = stock.config["rope_scaling"]
    if stock_plan is qwen2_moe.plan and rope and rope["rope_type"] == step35.ROPE:
        trunk = stored_tensors(blobs, manifest.trunk)
        stock = step35.converted(stock, biased=any(name.endswith("q_proj.bias") for name in trunk))
    refuse_unknown(stock.config, found or qwen2_moe.NAME)
    writer = GGUFWriter(None, ARCHITECTURES[stock.config["model_type"]])
    writer.add_file_type(LlamaFileType.ALL_F32 if dtype == "F32" else LlamaFileType[f"MOSTLY_{dtype}"])
    writer.add_license(manifest.license)
    _add_sizes(writer, stock.config)
    tokenizer = open_tokenizer(blobs, manifest.seed.files)
    tokenizer.chat_template = adopted_template(blobs, manifest) or tokenizer.chat_template
    add_tokenizer(writer, tokenizer, stock.config["vocab_size"], _ends(stock))
    tensors = _tensors(stock, dtype)
    files = {"Modelfile": modelfile(tokenizer, stock.config["vocab_size"], _ends(stock), manifest.license)}
    return GgufPlan(writer, tensors, dtype, files)


def refuse_unknown(config: Mapping[str, Any], instead: str = qwen2_moe.NAME) -> None:
    """Raise ExportError for settings of transformers' models that llama.cpp does not support.

    `instead` is the format that supports them.
    """
    rope = config["rope_scaling"] or {"rope_type": "default"}
    reasons = []
    if config["hidden_act"] not in ("silu", "swish"):
        reasons.append(f"hidden_act is {config['hidden_act']}, expected silu")
    if rope["rope_type"] not in ROPES:
        reasons.append(f"the rotary embedding is {rope['rope_type']}, expected one of {', '.join(ROPES)}")
    given = {name for name, value in rope.items() if value is not None}
    unknown = sorted(given - {"rope_type", "factor", *YARN}) if rope["rope_type"] == "yarn" else []
    if unknown:
        reasons.append(f"the yarn rotary embedding sets {', '.join(unknown)}, which llama.cpp does not read")
    if reasons:
        raise ExportError(f"llama.cpp cannot express this mix: {'; '.join(reasons)}; use --format {instead}")


def _add_sizes(writer: Any, config: Mapping[str, Any]) -> None:
    from gguf import ExpertGatingFuncType, RopeScalingType

    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_expert_count(config["num_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
    writer.add_rope_freq_base(config["rope_theta"])
    if config["model_type"] != qwen2_moe.NAME:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
        writer.add_expert_gating_func(ExpertGatingFuncType.SOFTMAX)
        writer.add_expert_weights_norm(False)
        writer.add_expert_weights_scale(1.0)
    if config["model_type"] == glm4_moe.NAME:
        writer.add_leading_dense_block_count(0)
        writer.add_expert_shared_count(1)
    if config["model_type"] == step35.NAME:
        # In blocks of full attention, Step-3.5 rotates half of this number of channels.
        writer.add_rope_dimension_count(2 * config["head_dim"])
        writer.add_rope_dimension_count_swa(config["head_dim"])
        writer.add_sliding_window(1)
        writer.add_sliding_window_pattern([False] * (config["num_hidden_layers"] - 1) + [True])
    if rope := config["rope_scaling"]:
        writer.add_rope_scaling_type(RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
        for name in YARN:
            if rope["rope_type"] == "yarn" and rope.get(name) is not None:
                getattr(writer, YARN[name])(rope[name])


def _ends(stock: Plan) -> list[int]:
    """Return the token ids at which the mix stops generating."""
    settings = json.loads(stock.files["generation_config.json"])
    found = [settings.get("eos_token_id"), stock.config["eos_token_id"]]
    return [i for ids in found for i in (ids if isinstance(ids, list) else [ids]) if i is not None]


def _tensors(stock: Plan, dtype: str) -> dict[str, Tensor]:
    """Return the stock model's tensors under llama.cpp's names, with the experts of a block stacked in one tensor."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    arch = next(a for a, n in MODEL_ARCH_NAMES.items() if n == ARCHITECTURES[stock.config["model_type"]])
    names = get_tensor_name_map(arch, stock.config["num_hidden_layers"])
    tensors: dict[str, Tensor] = {}
    for name, (values, count) in _stacked(stock.tensors).items():
        stem, kind = name.rsplit(".", 1)
        shape = values.shape if count is None else (count, values.shape[0] // count, values.shape[1])
        if name.endswith(qwen2_moe.SHARED_GATE):
            shape = shape[1:]
            values = Given(np.full(shape, NEARLY_ZERO, np.float32))
        stored = name if name == step35.FACTORS else f"{names.get_name(stem)}.{kind}"
        tensors[stored] = Tensor(values, shape, _dtype(name, shape, dtype))
    return tensors


def _stacked(stock: Mapping[str, Rows]) -> dict[str, tuple[Rows, int | None]]:
    """Stack the experts of each block. Returns each tensor with its number of experts, None if not stacked."""
    single: dict[str, tuple[Rows, int | None]] = {}
    experts: dict[str, list[Rows]] = {}
    for name, values in stock.items():
        block, found, rest = name.partition(".experts.")
        if found:
            experts.setdefault(f"{block}.experts.{rest.split('.', 1)[1]}", []).append(values)
        else:
            single[name] = (values, None)
    return single | {name: (Below(parts), len(parts)) for name, parts in experts.items()}


def _dtype(name: str, shape: tuple[int, ...], dtype: str) -> str:
    if len(shape) == 1 or name.endswith(GATES):
        return "F32"
    return "F16" if dtype == "Q8_0" and shape[-1] % BLOCK else dtype


FORMAT = Format(
    plan,
    DTYPES,
    loading="""\
```sh
llama-cli -m model.gguf -p "Once upon a time"
llama-server -m model.gguf  # an OpenAI-compatible API
```

Ollama:

```sh
ollama create my-mix -f Modelfile
ollama run my-mix "Once upon a time"
```

Python, with the package `llama-cpp-python`:

```python
from llama_cpp import Llama

print(Llama("model.gguf")("Once upon a time", max_tokens=40)["choices"][0]["text"])
```
""",
    chatting="""\
The file contains a chat template. `llama-cli` and `llama-server` use it; Ollama recognises those of common models.

```python
model = Llama("model.gguf")
messages = [{"role": "user", "content": "What is a matrix?"}]
print(model.create_chat_completion(messages, max_tokens=40)["choices"][0]["message"]["content"])
```
""",
    library="gguf",
    quantizer=Quantizer.find,
)
