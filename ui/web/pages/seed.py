"""The page to add a seed: a folder or a repository of the Hugging Face Hub, checked before it is queued."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from registry.catalog.queries import get_seed
from registry.checkpoints.preflight import Checkpoint, check_seed, is_dequantized
from registry.errors import ConflictError, NotFoundError, RegistryError
from registry.home import Registry
from registry.intake import hub, sources
from registry.names import check_name
from ui.web import routes
from ui.web.card_fields import description_field, license_field, text_fields
from ui.web.components import fact_table, label, page_title
from ui.web.form import Form
from ui.web.session import checked, current_registry, queue, refuse, shown_errors
from ui.web.uploading import allowed_roots, weights_upload
from ui.wording.display import parameters, printable

HUB_CHECK = "seed hub check"


def render() -> None:
    """Draw the page: the weights and the result of their check, then the card and the button."""
    with st.container(key="back"):
        st.page_link(routes.catalog(), label="Catalog", icon=":material/arrow_back:")
    page_title("Add a seed")
    st.caption(
        "A seed is the dense model that experts are fine-tuned from. Only experts of one seed can be mixed."
    )
    with shown_errors():
        registry = current_registry()
        form = Form("add-seed")
        left, right = st.columns([5, 3], gap="large")
        with left:
            typed = st.text_input(
                "Folder on the registry's machine, or hf:owner/name",
                placeholder="/data/models/SmolLM2-135M or hf:HuggingFaceTB/SmolLM2-135M",
                help="A Hugging Face folder with config.json, tokenizer.json and safetensors.",
                **form.field("source", ""),
            )
            source = weights_upload(registry, form.page) or typed.strip()
        # With a source, the result's room is kept from the first paint, so that the fields below do not move.
        with right, st.container(key="numbers"), st.container(key="check" if source else None):
            passed = _check(registry, source)
        rest, _ = st.columns([5, 3], gap="large")
        with rest:
            request = {**_card(registry, form), "source": source}
            form.write_address()
            _submit_button(registry, request, passed)


def _check(registry: Registry, source: str) -> bool:
    """Check headers and configuration without reading weights; return whether the source can be a seed."""
    st.subheader("Can it be a seed?", anchor=False)
    if not source:
        st.caption("Enter a folder to check its family, its tokenizer and every tensor.")
        return False
    try:
        with st.spinner("Querying the Hub …" if hub.is_hub(source) else "Reading headers …"):
            checkpoint = _preflight(registry, source)
    except (RegistryError, OSError) as error:
        st.error("This checkpoint cannot be a seed:", icon=":material/error:")
        st.code(printable(error), language=None, wrap_lines=True)
        return False
    if checkpoint is None:
        st.info(
            "Its weights are quantized. The run first converts them to bfloat16, and then checks them.",
            icon=":material/layers:",
        )
        return True
    st.success("It can be a seed.", icon=":material/check_circle:")
    fact_table(
        {
            "Family": checkpoint.family.model_type,
            "Parameters": parameters(checkpoint.roles.parameters),
            "Weights": checkpoint.roles.dtype,
        }
    )
    return True


def _preflight(registry: Registry, source: str) -> Checkpoint | None:
    """Check the source; None for weights that the run dequantizes. The Hub is queried once, not on every click."""
    if not hub.is_hub(source):
        folder = allowed_roots().check_import(Path(source))
        return None if is_dequantized(folder) else check_seed(folder)
    if st.session_state.get(HUB_CHECK, (None,))[0] != source:
        found = sources.check_remote(registry, hub.look_up(source), None)
        st.session_state[HUB_CHECK] = (source, found)
    checkpoint: Checkpoint | None = st.session_state[HUB_CHECK][1]
    return checkpoint


def _card(registry: Registry, form: Form) -> dict[str, Any]:
    left, right = st.columns(2)
    with left:
        typed = st.text_input("Name", placeholder="smol", **form.field("name", ""))
        name = checked(lambda text: _free(registry, check_name(text)), typed.strip())
    with right:
        license = license_field(form)
    description = description_field(form, "What it was trained on, and by whom.")
    text = text_fields(registry, form, "Text like its training text, one file or folder per line (optional)")
    st.caption("Mixes are measured on this text as their general domain, and may send such text to the seed.")
    return {"name": name, "license": license, "description": description, **text}


def _free(registry: Registry, name: str) -> str:
    """Return the name. Raises ConflictError if a seed has it already."""
    try:
        get_seed(registry, name)
    except NotFoundError:
        return name
    raise ConflictError(f"a seed named {name} exists already: choose another name")


def _submit_button(registry: Registry, request: dict[str, Any], passed: bool) -> None:
    missing = [
        words
        for words, given in {
            "weights that can be a seed": passed,
            "a name": request["name"],
            "a licence": request["license"],
            "text that exists": request["data"] is not None,
        }.items()
        if not given
    ]
    with st.container(key="action"):
        wanted = st.button("Add the seed", type="primary", icon=":material/add:")
    if missing:
        needed = label(f"Still needed: {', '.join(missing)}.")
        (refuse if wanted else st.caption)(needed)
    elif wanted:
        queue(registry, "add-seed", request, roots=allowed_roots())
