"""llama.cpp in this process, through the wheel xllamacpp: opens GGUF files, tokenizes, and returns log-probabilities.

reader = LlamaCpp(folder / "model.gguf")
reader.token_ids("some text")                 # [34, 7, …]
reader.top_log_probs([34, 7], count=5)        # {12: -0.8, …} of the next token
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class LlamaCpp:
    """A GGUF file served by llama.cpp on this machine's loopback, with one thread and a float32 cache."""

    def __init__(self, path: Path) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.n_gpu_layers = 256, 1, 0
        params.warmup, params.fit_params, params.verbosity = False, False, -1
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        self._server = xllamacpp.Server(params)
        self._letter = self.token_ids("a")[-1]

    def token_ids(self, text: str) -> list[int]:
        """The ids of a text, with the special tokens at its start and end."""
        request = {"content": text, "add_special": True, "parse_special": True}
        return self._post("/tokenize", request)["tokens"]

    def chat_prompt(self, messages: list[dict[str, str]]) -> str:
        """Messages formatted with the model's own chat template."""
        return self._post("/apply-template", {"messages": messages})["prompt"]

    def top_log_probs(self, ids: Sequence[int], *, count: int) -> dict[int, float]:
        """The likeliest next tokens and their natural log-probabilities."""
        # The server returns no probabilities for a token that ends inside a character, so a bias forces a letter.
        # The returned probabilities are those without the bias.
        request = {
            "prompt": list(ids),
            "n_predict": 1,
            "n_probs": count,
            "temperature": 0,
            "cache_prompt": False,
        }
        answer = self._server.handle_completions({**request, "logit_bias": [[self._letter, 1000]]})
        tops = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        return {top["id"]: top["logprob"] for top in tops}

    def greedy(self, ids: Sequence[int], *, count: int) -> list[int]:
        """The next `count` tokens, each the likeliest."""
        written = list(ids)
        for _ in range(count):
            written += self.top_log_probs(written, count=1)
        return written[len(ids) :]

    def write(self, ids: Sequence[int], count: int) -> str:
        """Generate `count` tokens greedily in one request, past the end of the text."""
        request = {
            "prompt": list(ids),
            "n_predict": count,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": False,
        }
        answer = self._server.handle_completions(request)
        written: str = answer["choices"][0]["text"]
        return written

    def _post(self, path: str, content: Any) -> Any:
        request = urllib.request.Request(
            self._server.listening_address + path,
            json.dumps(content).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)
