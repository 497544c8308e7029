"""Readers of exports in environments of their own: another version of transformers, or vLLM on a CPU.

with Elsewhere(Path("env457"), "transformers", folder) as reader:
    reader.top_log_probs([34, 7], count=5)    # {12: -0.8, …} of the next token

The child process runs this file in the other environment, so the file imports nothing of this project.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any


class Elsewhere:
    """An export opened in float32 by one library of another environment, in a child process with one thread.

    `library` is transformers, vllm, or vllm-transformers: vLLM with transformers' modeling code.
    """

    def __init__(self, environment: Path, library: str, folder: Path) -> None:
        python = environment / "bin" / "python"
        # Without an address, vLLM looks for one on the network.
        own = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "VLLM_HOST_IP": "127.0.0.1"}
        self._child = subprocess.Popen(
            [python, "-I", __file__, library, folder],
            env={**os.environ, **own, "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._child.pid
        self.version = f"{library} {self._answer()}"

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.communicate()

    def top_log_probs(self, ids: Sequence[int], *, count: int) -> dict[int, float]:
        """The likeliest next tokens and their natural log-probabilities."""
        return {int(each): value for each, value in self._ask("top", ids, count).items()}

    def greedy(self, ids: Sequence[int], *, count: int) -> list[int]:
        """The next `count` tokens, each the likeliest, past the end of the text."""
        written: list[int] = self._ask("greedy", ids, count)
        return written

    def _ask(self, what: str, ids: Sequence[int], count: int) -> Any:
        assert self._child.stdin is not None
        print(json.dumps([what, list(ids), count]), file=self._child.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(
                f"the reader ended with exit code {self._child.wait()}; see its messages above"
            )
        return json.loads(line)


Functions = dict[str, Callable[[list[int], int], Any]]


def _with_transformers(folder: str) -> tuple[str, Functions]:
    import torch
    import transformers

    torch.set_num_threads(1)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, dtype="float32"
    )
    assert not info["missing_keys"] and not info["unexpected_keys"], info

    @torch.inference_mode()
    def top(ids: list[int], count: int) -> dict[int, float]:
        found = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1).topk(count)
        return dict(zip(found.indices.tolist(), found.values.tolist(), strict=True))

    def greedy(ids: list[int], count: int) -> list[int]:
        settings = {"max_new_tokens": count, "do_sample": False, "eos_token_id": -1, "pad_token_id": 0}
        prompt = torch.tensor([ids])
        # Without a mask, a pad token in the prompt would be padding.
        written = model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
        return written[0].tolist()[len(ids) :]

    return transformers.__version__, {"top": top, "greedy": greedy}


def _with_vllm(folder: str, **options: Any) -> tuple[str, Functions]:
    import vllm

    settings = {"max_model_len": 256, "max_num_seqs": 1, "seed": 0, "enforce_eager": True}
    # With the prefix cache, a text that was read before would cost no prefill.
    model = vllm.LLM(folder, dtype="float32", enable_prefix_caching=False, **settings, **options)

    def run(ids: list[int], **settings: Any) -> Any:
        sampling = vllm.SamplingParams(temperature=0, ignore_eos=True, **settings)
        return model.generate([{"prompt_token_ids": ids}], sampling, use_tqdm=False)[0].outputs[0]

    def top(ids: list[int], count: int) -> dict[int, float]:
        found = run(ids, max_tokens=1, logprobs=count).logprobs[0]
        return {each: value.logprob for each, value in found.items()}

    def greedy(ids: list[int], count: int) -> list[int]:
        return list(run(ids, max_tokens=count).token_ids)

    return vllm.__version__, {"top": top, "greedy": greedy}


def _serve(library: str, folder: str, answers: IO[str]) -> None:
    """Answer one request per line until the input ends."""
    if library == "transformers":
        version, functions = _with_transformers(folder)
    elif library == "vllm":
        version, functions = _with_vllm(folder)
    else:
        version, functions = _with_vllm(folder, model_impl="transformers", trust_remote_code=True)
    print(json.dumps(version), file=answers, flush=True)
    for line in sys.stdin:
        what, ids, count = json.loads(line)
        print(json.dumps(functions[what](ids, count)), file=answers, flush=True)


if __name__ == "__main__":
    private = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is not an answer
    _serve(sys.argv[1], sys.argv[2], private)
