"""The Hugging Face Hub as a target: a folder becomes one commit of a repository, which is created if needed.

The token is the one that huggingface_hub finds (HF_TOKEN, or a login); it must be allowed to write.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from registry.access import record
from registry.errors import HubError, InvalidInputError
from registry.home import Registry
from registry.intake.hub import PREFIX, check_repository, is_hub, retried
from registry.records import Digest


@dataclass(frozen=True)
class Pushed:
    """An uploaded object: its name here, and the repository and commit that it became."""

    ref: str
    repository: str
    commit: str


def repository_of(target: str) -> str:
    """Return owner/name of `hf:owner/name`. Raises InvalidInputError."""
    name = target.removeprefix(PREFIX)
    refusal = f"{target!a}: expected {PREFIX}owner/name, without a revision"
    if not is_hub(target):
        raise InvalidInputError(refusal)
    check_repository(name, refusal)
    return name


def upload(
    registry: Registry, folder: Path, repository: str, *, ref: str, digest: Digest, private: bool
) -> Pushed:
    """Upload the folder's files as one commit, and record it in the event log with the object's digest.

    A new repository is private if `private`; the visibility of an existing one stays. Raises AccessError, HubError.
    """
    from huggingface_hub import HfApi

    registry.actor.require("push")
    source, api = f"{PREFIX}{repository}", HfApi()
    retried(source, lambda: api.create_repo(repository, private=private, exist_ok=True))
    made = retried(
        source,
        lambda: api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=f"Publish {ref} with nexusmix ({digest[:19]})",
        ),
    )
    commit = getattr(made, "oid", None)
    if not isinstance(commit, str):
        raise HubError(
            f"{source}: the hub returned no commit, so the upload is not certain: look at the repository"
        )
    with registry.session() as session:
        record(session, registry.actor, "push", ref, digest, to=f"{source}@{commit}")
    return Pushed(ref, repository, commit)
