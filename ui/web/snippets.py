"""Ways to use a mix outside the web app: transformers, vLLM, llama.cpp and Ollama, and the API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from registry.records import MixRecord

TRANSFORMERS = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("./{name}", trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained("./{name}", trust_remote_code=True, dtype="auto")
prompt = tokenizer("Once upon a time", return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=40)[0]))
"""
LLAMA = """\
nexusmix export {ref} ./{name}-gguf --format gguf
llama-server -m ./{name}-gguf/model.gguf
ollama create {name} -f ./{name}-gguf/Modelfile && ollama run {name}
"""
VLLM = """\
nexusmix export {ref} ./{name}-stock --format {stock}
vllm serve ./{name}-stock
"""
API = """\
nexusmix serve {ref}
curl localhost:8000/v1/completions -H 'Content-Type: application/json' \\
  -d '{{"model": "{ref}", "prompt": "Once upon a time", "max_tokens": 40}}'
"""
WHOLE = "Whole experts fit no stock architecture. Compose the experts with a merged trunk for this software."


def draw(mix: MixRecord, manifest: Mapping[str, Any]) -> None:
    """Draw one tab per software."""
    st.subheader("Use it", anchor=False)
    whole = bool(manifest.get("routed_trunk"))
    names = {"ref": mix.ref, "name": mix.name, "stock": "qwen2_moe"}
    transformers, vllm, llama, api = st.tabs(["transformers", "vLLM", "llama.cpp, Ollama", "API"])
    with transformers:
        st.code(f"nexusmix export {mix.ref} ./{mix.name}", language=None, wrap_lines=True)
        st.code(TRANSFORMERS.format(**names), language="python", wrap_lines=True)
    for tab, text in ((vllm, VLLM), (llama, LLAMA)):
        with tab:
            if whole:
                st.caption(WHOLE)
            else:
                st.code(text.format(**names), language="bash", wrap_lines=True)
    with api:
        st.code(API.format(**names), language="bash", wrap_lines=True)
