"""all-MiniLM-L6-v2 in numpy: the same vectors as sentence-transformers computes, without importing torch.

Shape suffixes: T tokens of all texts of a batch, D width of the model, H heads, F width of the feed-forward layer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from registry.checkpoints.tensors import read_header
from registry.errors import IntegrityError
from registry.records import EmbedderId

TOKENS_A_PASS = 1024  # more do not run faster, and each costs about 40 kB
GELU_ROWS = 16
_EPSILON = 1e-12


class MiniLmEmbedder:
    """A BERT encoder with mean pooling in a local folder; its weights are mapped at the first `encode`."""

    def __init__(self, identity: EmbedderId, folder: Path) -> None:
        self.id = identity
        self.folder = folder

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"tokenizer.json: {error}") from error
        tokenizer.no_padding()
        limit = json.loads((self.folder / "sentence_bert_config.json").read_bytes())["max_seq_length"]
        tokenizer.enable_truncation(limit)
        return tokenizer

    @cached_property
    def _weights(self) -> _Weights:
        return _Weights(self.folder)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors [n, D] of n texts. Raises IntegrityError if the folder is damaged."""
        vectors = np.zeros((len(texts), self.id.dimension), dtype=np.float32)
        try:
            # A lone surrogate is not valid text: the tokenizer would refuse it.
            encodings = self._tokenizer.encode_batch(
                [text.encode(errors="replace").decode() for text in texts]
            )
            for rows in _passes([len(encoding.ids) for encoding in encodings]):
                vectors[rows] = _pooled(self._weights, [encodings[row].ids for row in rows])
        except (OSError, KeyError, ValueError) as error:
            raise IntegrityError(
                f"the embedder in {self.folder} cannot be loaded ({error}); restore the folder or remove it"
            ) from error
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class _Weights:
    """Tensors of the checkpoint, mapped: only the embeddings of the tokens that occur are read."""

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_bytes())
        path = (folder / "model.safetensors").resolve()  # a link in a hub snapshot
        content = np.memmap(path, dtype=np.uint8, mode="r")
        self.tensors = {
            name: np.asarray(content[info.start : info.end].view("<f4").reshape(info.shape))
            for name, info in read_header(path).items()
            if info.dtype == "F32"
        }
        self.layers = int(config["num_hidden_layers"])
        self.heads = int(config["num_attention_heads"])

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        y: np.ndarray = x @ self.tensors[f"{name}.weight"].T
        y += self.tensors[f"{name}.bias"]
        return y

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        x = x - x.mean(axis=-1, keepdims=True)
        x /= np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + np.float32(_EPSILON))
        x *= self.tensors[f"{name}.weight"]
        x += self.tensors[f"{name}.bias"]
        return x


def _passes(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield groups of texts that are encoded together, each of at most TOKENS_A_PASS tokens or one text."""
    rows: list[int] = []
    tokens = 0
    for row, length in enumerate(lengths):
        if rows and tokens + length > TOKENS_A_PASS:
            yield rows
            rows, tokens = [], 0
        rows.append(row)
        tokens += length
    if rows:
        yield rows


def _pooled(weights: _Weights, texts: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the mean of each text's token vectors. Linear layers see all tokens; attention sees one text."""
    ends = np.cumsum([len(ids) for ids in texts])
    spans = [slice(end - len(ids), end) for ids, end in zip(texts, ends.tolist(), strict=True)]
    ids_T = np.concatenate([np.asarray(ids) for ids in texts])
    places_T = np.concatenate([np.arange(len(ids)) for ids in texts])
    tables = weights.tensors
    x_TD = tables["embeddings.word_embeddings.weight"][ids_T]
    x_TD += tables["embeddings.position_embeddings.weight"][places_T]
    x_TD += tables["embeddings.token_type_embeddings.weight"][0]
    x_TD = weights.norm("embeddings.LayerNorm", x_TD)
    for number in range(weights.layers):
        layer = f"encoder.layer.{number}"
        seen_TD = _attention(weights, f"{layer}.attention.self", x_TD, spans)
        x_TD = weights.norm(
            f"{layer}.attention.output.LayerNorm",
            x_TD + weights.linear(f"{layer}.attention.output.dense", seen_TD),
        )
        hidden_TF = _gelu(weights.linear(f"{layer}.intermediate.dense", x_TD))
        x_TD = weights.norm(
            f"{layer}.output.LayerNorm", x_TD + weights.linear(f"{layer}.output.dense", hidden_TF)
        )
    return np.stack([x_TD[span].mean(axis=0) for span in spans])


def _attention(weights: _Weights, name: str, x_TD: np.ndarray, spans: Sequence[slice]) -> np.ndarray:
    parts = (weights.linear(f"{name}.{part}", x_TD) for part in ("query", "key", "value"))
    q, k, v = (part.reshape(len(x_TD), weights.heads, -1).transpose(1, 0, 2) for part in parts)
    scale = np.float32(q.shape[-1] ** -0.5)
    seen_TD = np.empty_like(x_TD)
    for span in spans:
        scores = (q[:, span] * scale) @ k[:, span].transpose(0, 2, 1)
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        seen_TD[span] = (scores @ v[:, span]).transpose(1, 0, 2).reshape(-1, x_TD.shape[1])
    return seen_TD


def _gelu(x_TF: np.ndarray) -> np.ndarray:
    """Replace x by x Φ(x), and return it.

    It is max(x, 0) - |x| (1 - erf(|x| / √2)) / 2, with the error function of Abramowitz and Stegun 7.1.26, exact to
    1.5e-7. The rows of a piece stay in the processor's cache.
    """
    for first in range(0, len(x_TF), GELU_ROWS):
        x = x_TF[first : first + GELU_ROWS]
        size = np.abs(x)
        z = size * np.float32(2**-0.5)
        t = 1 / (1 + np.float32(0.3275911) * z)
        series = np.float32(1.061405429) * t
        for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
            series += np.float32(coefficient)
            series *= t
        np.square(z, out=z)
        np.negative(z, out=z)
        series *= np.exp(z, out=z)
        series *= size
        series *= np.float32(0.5)
        np.maximum(x, 0, out=x)
        x -= series
    return x_TF
