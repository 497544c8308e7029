"""Readings of a text by open models, kept for all visitors: masking an expert reads only the mix again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import streamlit as st

from registry.home import Registry
from registry.records import MixRecord
from ui.web.models import Loaded, loaded

if TYPE_CHECKING:
    from composer.lens import Reading

MOST_READINGS = 24
MOST_EXPERTS = 3
_READING = "Reading …"


def mix_reading(registry: Registry, mix: MixRecord, text: str, active: Sequence[str]) -> Reading:
    """Return a mix's reading with only the `active` experts. Raises the errors of `composer.lens.read`."""
    masked = tuple(active) if len(active) < len(mix.experts) else ()
    return _read_mix(registry, str(registry.home), mix.ref, mix.manifest, text, masked)


def seed_reading(registry: Registry, seed: str, text: str) -> Reading:
    """Return a seed's reading. Raises the errors of `composer.lens.read`."""
    return _read_seed(registry, str(registry.home), seed, text)


def expert_reading(registry: Registry, mix: MixRecord, expert: str, text: str) -> Reading:
    """Return the reading of a mix's expert alone, as a dense model. Raises the errors of `composer.lens.read`."""
    return _read_expert(registry, str(registry.home), mix.ref, expert, text)


@st.cache_data(max_entries=MOST_READINGS, show_spinner=_READING)
def _read_mix(
    _registry: Registry, home: str, ref: str, manifest: str, text: str, active: tuple[str, ...]
) -> Reading:
    return _read(loaded(_registry, home, ref, False), text, active or None)


@st.cache_data(max_entries=MOST_READINGS, show_spinner=_READING)
def _read_seed(_registry: Registry, home: str, seed: str, text: str) -> Reading:
    return _read(loaded(_registry, home, seed, True), text, None)


@st.cache_data(max_entries=MOST_READINGS, show_spinner=_READING)
def _read_expert(_registry: Registry, home: str, mix: str, expert: str, text: str) -> Reading:
    return _read(_loaded_expert(_registry, home, mix, expert), text, None)


def _read(opened: Loaded, text: str, active: Sequence[str] | None) -> Reading:
    from composer.lens import read

    with opened.turn:
        return read(opened.model, text, active_experts=active)


@st.cache_resource(max_entries=MOST_EXPERTS, show_spinner="Opening the expert …")
def _loaded_expert(_registry: Registry, home: str, mix: str, expert: str) -> Loaded:
    """Open an expert of a mix as a dense model with the seed's tokenizer."""
    from composer.mix.opening import OpenSeed, find_mix, open_expert, open_tokenizer

    _record, manifest = find_mix(_registry, mix)
    locked = next(member.expert for member in manifest.members if member.expert.ref == expert)
    model = open_expert(_registry, manifest.seed, locked)
    return Loaded(OpenSeed(model, open_tokenizer(_registry.blobs, manifest.seed.files)))


def release() -> None:
    """Close every expert that is open alone."""
    _loaded_expert.clear()
