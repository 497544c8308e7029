"""A recipe that was pasted or uploaded: it fills the compose form, or is composed exactly as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from composer.estimate import Estimate, estimate
from registry.catalog.queries import get_parts
from registry.home import Registry
from ui.web.form import Form, address_of
from ui.web.run_words import recipe_fields
from ui.web.session import queue, refuse, shown_refusal

if TYPE_CHECKING:
    from composer.mix.recipe import Recipe

RECIPE_CHARS = 20_000
UPLOAD_MB = 1
EXAMPLE = "name: team\nseed: smol\nexperts: [law, python]\ntraining:\n  tokens: 100000"


def open_recipe(registry: Registry, form: Form) -> None:
    """Draw the button that opens a recipe; the form's fields must be drawn after it."""
    with st.popover("Open a recipe", icon=":material/upload_file:", width="content"):
        text = st.text_area(
            "Recipe in YAML",
            key="recipe text",
            persist_state="session",
            height=180,
            max_chars=RECIPE_CHARS,
            placeholder=EXAMPLE,
        )
        given = st.file_uploader(
            "Or a recipe file", ["yaml", "yml"], max_upload_size=UPLOAD_MB, key="recipe file"
        )
        below = st.container()
        fill = st.button("Fill the form with it", type="primary", width="stretch")
        exact = st.button("Compose it as it is", width="stretch")
        st.caption(
            "The form has no fields for batches, the load balance and parameters of a merge. Composed as it is, a "
            "recipe keeps them."
        )
        if given is not None:
            text = given.getvalue().decode(errors="replace")[:RECIPE_CHARS]
        if not (fill or exact):
            return
        if not (text or "").strip():
            refuse("Paste a recipe first, or choose a file.", below)
            return
        with shown_refusal(below):
            recipe, forecast = _read(registry, text, given.name if given else "the pasted text")
            if fill:
                form.fill(address_of(recipe_fields(recipe.model_dump(mode="json"))))
            elif not forecast.is_allowed and recipe.license_override is None:
                refuse(f"{forecast.conflict}. Add license_override to the recipe with the reason.", below)
            else:
                request = {"recipe": recipe.model_dump(mode="json"), "evaluate": True}
                queue(registry, "compose", request, below)


def _read(registry: Registry, text: str, source: str) -> tuple[Recipe, Estimate]:
    """Return the recipe with its experts' versions, and its estimate. Raises RecipeError, NotFoundError."""
    from composer.mix.recipe import Recipe

    recipe = Recipe.from_text(text, source)
    seed, experts = get_parts(registry, recipe.seed, recipe.experts)
    recipe = recipe.model_copy(update={"experts": [expert.ref for expert in experts]})
    return recipe, estimate(registry, seed, experts, recipe.model_dump(mode="json"))
