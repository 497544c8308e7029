"""Which chat template a mix uses: its seed's, or else the one on which its experts agree."""

from __future__ import annotations

from dataclasses import dataclass

from composer.errors import ChatTemplateError, RecipeError
from composer.mix.opening import Manifest
from registry.blobs import BlobStore, read_files
from registry.checkpoints.tokenizers import chat_template
from registry.errors import UnsafeFileError


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja template, and the seed or the experts that it comes from."""

    source: str
    origin: str
    of_seed: bool = False


def template_of(blobs: BlobStore, manifest: Manifest, expert: str | None = None) -> ChatTemplate:
    """Return the mix's template, or the one of an `expert` (`name` or `name@version`).

    Raises ChatTemplateError if there is none, or if the seed has none and the experts' differ. Raises RecipeError for
    an expert that is not a member.
    """
    templates = _of_members(blobs, manifest)
    if expert is not None:
        from composer.mix.masking import places  # imports torch, which an export does without

        (ref,) = (manifest.members[place].expert.ref for place in places(manifest, [expert]) or ())
        if ref not in templates:
            others = f"; these have one: {', '.join(templates)}" if templates else ""
            raise RecipeError(f"{ref} has no chat template{others}")
        return ChatTemplate(templates[ref], ref)
    wanted = ("tokenizer_config.json", "chat_template.jinja")
    files = {name: digest for name, digest in manifest.seed.files.items() if name in wanted}
    own = chat_template(read_files(blobs, files))
    if own is not None:
        return ChatTemplate(own, f"seed {manifest.seed.name}", of_seed=True)
    if len(set(templates.values())) == 1:
        return ChatTemplate(next(iter(templates.values())), ", ".join(templates))
    if templates:
        raise ChatTemplateError(
            f"the seed has no chat template, and those of {', '.join(templates)} differ: choose one with --template"
        )
    raise ChatTemplateError(
        "the mix has no chat template: neither its seed nor an expert came with one; continue plain text (`nexusmix "
        "generate`, or the API's /v1/completions), or add an expert whose folder contains chat_template.jinja"
    )


def _of_members(blobs: BlobStore, manifest: Manifest) -> dict[str, str]:
    """Return the templates of the experts that came with one, by reference."""
    experts = (member.expert for member in manifest.members)
    return {e.ref: blobs.read_bytes(e.chat_template).decode() for e in experts if e.chat_template is not None}


def exported_template(blobs: BlobStore, manifest: Manifest) -> ChatTemplate | None:
    """Return the template of an export. None without one, and where the experts' differ: an export cannot ask."""
    try:
        return template_of(blobs, manifest)
    except (ChatTemplateError, UnsafeFileError):
        return None


def adopted_template(blobs: BlobStore, manifest: Manifest) -> str | None:
    """Return the experts' template for an export, which contains the seed's files already; None if it is not needed."""
    chosen = exported_template(blobs, manifest)
    return None if chosen is None or chosen.of_seed else chosen.source
