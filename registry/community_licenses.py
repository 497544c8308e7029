"""Licences of published models that SPDX does not list, with their source and the use that they permit.

Each is written `LicenseRef-` and the hub's tag. A name in this table has one text, so it is the same in two works.
"""

from __future__ import annotations

from dataclasses import dataclass

PREFIX = "LicenseRef-"


@dataclass(frozen=True)
class Community:
    """Source of a licence's text, and whether it permits non-commercial use only. All restrict the use."""

    source: str
    non_commercial: bool = False


_META = "https://github.com/meta-llama/llama-models/blob/main/models"
COMMUNITY: dict[str, Community] = {
    "llama2": Community(f"{_META}/llama2/LICENSE"),
    "llama3": Community(f"{_META}/llama3/LICENSE"),
    "llama3.1": Community(f"{_META}/llama3_1/LICENSE"),
    "llama3.2": Community(f"{_META}/llama3_2/LICENSE"),
    "llama3.3": Community(f"{_META}/llama3_3/LICENSE"),
    "llama4": Community(f"{_META}/llama4/LICENSE"),
    "gemma": Community("https://ai.google.dev/gemma/terms"),
    "qwen": Community("https://huggingface.co/Qwen/Qwen2.5-72B-Instruct/blob/main/LICENSE"),
    "qwen-research": Community(
        "https://huggingface.co/Qwen/Qwen2.5-3B-Instruct/blob/main/LICENSE", non_commercial=True
    ),
    "creativeml-openrail-m": Community("https://huggingface.co/spaces/CompVis/stable-diffusion-license"),
    "bigscience-openrail-m": Community(
        "https://www.licenses.ai/blog/2022/8/26/bigscience-open-rail-m-license"
    ),
    "bigscience-bloom-rail-1.0": Community("https://huggingface.co/spaces/bigscience/license"),
    "bigcode-openrail-m": Community("https://huggingface.co/spaces/bigcode/bigcode-model-license-agreement"),
    "fair-noncommercial-research-license": Community(
        "https://huggingface.co/facebook/fair-noncommercial-research-license", non_commercial=True
    ),
}
REF_OF_TAG = {tag: f"{PREFIX}{tag}" for tag in COMMUNITY}


def community(key: str) -> Community | None:
    """Return the entry of a name such as LicenseRef-gemma; None for any other licence."""
    return COMMUNITY.get(key.removeprefix(PREFIX).lower()) if key.startswith(PREFIX) else None
