"""The contribute page: an expert from a folder or the Hugging Face Hub, first checked against its seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from composer.experts.adapter import is_adapter, read_adapter
from composer.experts.adapter_config import check_base
from registry.catalog.queries import list_seeds
from registry.checkpoints.descent import check_descent
from registry.checkpoints.preflight import Checkpoint, check_expert, is_dequantized
from registry.checkpoints.tensors import read_header
from registry.domains.embedding import load_embedding
from registry.errors import IncompatibleError, RegistryError
from registry.home import Registry
from registry.intake import hub, sources
from registry.names import check_name
from registry.records import SeedRecord
from ui.web.card_fields import description_field, license_field, text_fields
from ui.web.components import empty_state, escaped, fact_table, label, page_title
from ui.web.form import Form
from ui.web.session import (
    checked,
    current_registry,
    first_steps,
    queue,
    refuse,
    shown_errors,
)
from ui.web.uploading import allowed_roots, embedding_upload, weights_upload
from ui.wording.display import parameters, plural, printable, size

HUB_CHECK = "hub_check"
SHARED, PRIVATE = "shared", "private"
TEXTS = {SHARED: "Share a sample", PRIVATE: "Keep it private"}


def render() -> None:
    """Draw the page: the folder and the result of its check, then the card, the domain and the button."""
    page_title("Contribute an expert")
    with shown_errors():
        registry = current_registry()
        seeds = {seed.name: seed for seed in list_seeds(registry)}
        if not seeds:
            empty_state(
                "No seeds yet",
                "An expert is fine-tuned from a seed. First add the base model of your expert as a seed.",
            )
            first_steps(registry)
            return
        form = Form("contribute")
        left, result = st.columns([5, 3], gap="large")
        with left:
            seed, source = _source(registry, form, seeds)
        # With a source, the result's room is kept from the first paint, so that the fields below do not move.
        with result, st.container(key="numbers"), st.container(key="check" if source else None):
            passed = _check(registry, seed, source)
        # A second row, so that a narrow window shows the check's result right after the folder.
        rest, _ = st.columns([5, 3], gap="large")
        with rest:
            request = {
                **_card(form),
                **_domain(registry, form, seed.name),
                "seed": seed.name,
                "source": source,
            }
            form.write_address()
            _submit_button(registry, request, passed)


def _source(registry: Registry, form: Form, seeds: dict[str, SeedRecord]) -> tuple[SeedRecord, str]:
    st.subheader("1 · The weights", anchor=False)
    names = list(seeds)
    field = form.field("seed", names[0], allowed=seeds, always=True)
    seed = seeds[st.selectbox("Seed that it was fine-tuned from", names, **field)]
    source = st.text_input(
        "Folder on the registry's machine, or hf:owner/name",
        placeholder="/data/models/law-expert or hf:owner/name@revision",
        help="A Hugging Face folder (config.json, tokenizer.json, safetensors) or the folder of a LoRA adapter. "
        "The registry's machine downloads models from the Hub.",
        **form.field("source", ""),
    )
    return seed, weights_upload(registry, form.page) or source.strip()


def _check(registry: Registry, seed: SeedRecord, source: str) -> bool:
    """Check headers, configuration and a sample of the weights; return whether the source fits."""
    st.subheader("Does it fit?", anchor=False)
    if not source:
        st.caption("Enter a folder to check its configuration, tokenizer and every tensor against the seed.")
        return False
    try:
        with st.spinner("Querying the Hub …" if hub.is_hub(source) else "Reading headers …"):
            checkpoint = _preflight(registry, seed, source)
    except IncompatibleError as error:
        reasons = error.mismatches or (str(error),)
        st.error(f"It does not fit: {plural(len(reasons), 'reason')}.", icon=":material/block:")
        items = "".join(f"<li>{escaped(reason)}</li>" for reason in reasons)
        st.html(f'<ul class="nm-reasons">{items}</ul>')
        return False
    except (RegistryError, OSError) as error:
        st.error("This checkpoint cannot be imported:", icon=":material/error:")
        st.code(printable(error), language=None, wrap_lines=True)
        if hub.is_hub(source) and st.button("Query the Hub again", icon=":material/refresh:"):
            st.session_state.pop(HUB_CHECK, None)
            st.rerun()
        return False
    if checkpoint is None:
        about = "The run first merges or converts it, and fails if its shapes do not fit."
        st.info(f"This is a LoRA adapter, or its weights are quantized. {about}", icon=":material/layers:")
        return True
    st.success(f"It fits {label(seed.name)}.", icon=":material/check_circle:")
    fact_table(_findings(checkpoint))
    return True


def _preflight(registry: Registry, seed: SeedRecord, source: str) -> Checkpoint | None:
    """Run the preflight check of the source; None for an adapter. The Hub is queried once, not on every click."""
    if not hub.is_hub(source):
        return _check_folder(registry, seed, allowed_roots().check_import(source))
    asked = (seed.name, source)
    if st.session_state.get(HUB_CHECK, (None,))[0] != asked:
        try:
            outcome: Any = sources.check_remote(registry, hub.look_up(source), seed.name)
        except RegistryError as error:
            outcome = error
        st.session_state[HUB_CHECK] = (asked, outcome)
    outcome = st.session_state[HUB_CHECK][1]
    if isinstance(outcome, RegistryError):
        raise outcome
    return outcome


def _check_folder(registry: Registry, seed: SeedRecord, folder: Path) -> Checkpoint | None:
    """Check a folder's headers, and a sample of its weights; None for an adapter and weights that are dequantized."""
    if is_adapter(folder):
        check_base(read_adapter(folder).config, folder, seed)
        return None
    if is_dequantized(folder):
        return None
    files = {name: registry.blobs.read_bytes(digest) for name, digest in seed.files.items()}
    checkpoint = check_expert(seed, files, folder)
    blobs = registry.blobs
    check_descent(
        {"ffn": read_header(blobs.path(seed.ffn)), "trunk": read_header(blobs.path(seed.trunk))},
        checkpoint.roles,
    )
    return checkpoint


def _findings(checkpoint: Checkpoint) -> dict[str, object]:
    roles = checkpoint.roles
    tensors = [*roles.ffn.values(), *roles.trunk.values()]
    return {
        "Family": checkpoint.family.model_type,
        "Parameters": parameters(roles.parameters),
        "FFNs": f"{plural(len(roles.ffn), 'tensor')}, width {roles.ffn_width:,}",
        "Trunk": plural(len(roles.trunk), "tensor"),
        "Weights": roles.dtype,
        **({"Removed from names": ", ".join(roles.wrappers)} if roles.wrappers else {}),
        "Storage needed": f"at most {size(sum(tensor.end - tensor.start for tensor in tensors))}",
    }


def _card(form: Form) -> dict[str, Any]:
    st.subheader("2 · The card", anchor=False)
    left, right = st.columns(2)
    with left:
        typed = st.text_input(
            "Name",
            placeholder="law",
            help="An existing name gets its next version.",
            **form.field("name", ""),
        )
        name = checked(check_name, typed.strip())
    with right:
        license = license_field(form)
    description = description_field(form, "Training data, strengths and weaknesses.")
    return {"name": name, "license": license, "description": description}


def _domain(registry: Registry, form: Form, seed: str) -> dict[str, Any]:
    """Draw the source of the domain embedding: a sample of the text, or an embedding file made by the owner."""
    st.subheader("3 · The domain", anchor=False)
    mode = st.segmented_control(
        "Training text",
        [SHARED, PRIVATE],
        required=True,
        format_func=TEXTS.__getitem__,
        **form.field("text", SHARED, allowed=TEXTS),
    )
    if mode == SHARED:
        st.caption(
            "A sample of the text (at most 4 MB) is stored with the expert. Routers are warm-started on it, and one "
            "document in twenty is held out for evaluation. Everyone who can read the registry can read the sample."
        )
        return text_fields(registry, form, "Files or folders of text, one per line")
    st.caption(
        "Only an embedding of the text is contributed; compute it on your own machine. Routers can use it, but the "
        "expert has no held-out text for evaluation, and mixes are fine-tuned without its text. With --seed the file "
        "also contains the frequencies of tokens in your text, which a mix of whole experts routes by."
    )
    st.code(f"nexusmix embed ./private --seed {seed} --out law.json", language=None)
    file = st.text_input(
        "Embedding file on the registry's machine",
        placeholder="/data/law.json",
        **form.field("embedding", ""),
    )
    return {"embedding": checked(_embedding, embedding_upload(registry, form.page) or file.strip())}


def _embedding(path: str) -> str:
    """Check the path and the content of an embedding file. Raises RegistryError."""
    load_embedding(allowed_roots().check_import(path))
    return path


def _submit_button(registry: Registry, request: dict[str, Any], passed: bool) -> None:
    missing = [
        words
        for words, given in {
            "weights that fit": passed,
            "a name": request["name"],
            "a licence": request["license"],
            "its domain": request.get("data") or request.get("embedding"),
        }.items()
        if not given
    ]
    with st.container(key="action"):
        wanted = st.button("Contribute", type="primary", icon=":material/upload:")
    if missing:
        needed = f"Still needed: {', '.join(missing)}."
        (refuse if wanted else st.caption)(needed)
    elif wanted:
        queue(registry, "contribute", request, roots=allowed_roots())
