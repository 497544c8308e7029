"""Data sets from the Hugging Face Hub, from a local stand-in: read from the cache, checked, and offline too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_stand_in import COMMIT, StandIn

from registry.domains.reading import read_documents
from registry.domains.skipped import Skipped
from registry.errors import HubError, IntegrityError, InvalidInputError, NotFoundError


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """The hub with the data set acme/law, in two splits."""
    folder = tmp_path / "law"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("# A card")
    (folder / "data" / "train.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    (folder / "data" / "test.csv").write_text("text\nthree\n")
    (folder / "picture.png").write_bytes(b"\x89PNG\0")
    (folder / "script.py").write_text("raise SystemExit")
    from huggingface_hub import constants

    with StandIn({"acme/law": folder, "acme/empty": tmp_path / "nothing"}) as server:
        (tmp_path / "nothing").mkdir()
        (tmp_path / "nothing" / "README.md").write_text("# A card")
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield server


def test_a_data_set_gives_the_texts_of_its_tables(hub: StandIn) -> None:
    assert list(read_documents("hf:acme/law")) == ["three", "one", "two"]
    assert list(read_documents("hf:acme/law@v1:data/train.jsonl")) == ["one", "two"]
    assert not any(path.endswith((".png", ".py")) for path, _ in hub.requests)


def test_what_is_in_the_cache_is_read_from_there_and_offline_too(
    hub: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = list(read_documents("hf:acme/law"))
    downloads = sum("/resolve/" in path for path, _ in hub.requests)
    assert list(read_documents("hf:acme/law")) == texts
    assert sum("/resolve/" in path for path, _ in hub.requests) == downloads
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for source in ("hf:acme/law", f"hf:acme/law@{COMMIT}"):
        assert list(read_documents(source, skipped=Skipped())) == texts


@pytest.mark.parametrize(
    ("source", "error", "told"),
    [
        ("hf:acme", InvalidInputError, "expected hf:owner/name"),
        ("hf:acme/law/../../etc", InvalidInputError, "expected hf:owner/name"),
        ("hf:acme/nowhere", NotFoundError, "no such data set"),
        ("hf:acme/law@nowhere", NotFoundError, "no such revision"),
        ("hf:acme/empty", NotFoundError, "no text in its 1 files"),
        ("hf:acme/law:other", NotFoundError, "no text in its 5 files"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(
    hub: StandIn, source: str, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told) as caught:
        list(read_documents(source))
    assert "\n" not in str(caught.value)


def test_a_changed_file_in_the_cache_is_refused(hub: StandIn, tmp_path: Path) -> None:
    list(read_documents("hf:acme/law"))
    (blob,) = (path for path in (tmp_path / "cache").rglob("*.jsonl"))
    blob.resolve().write_text(json.dumps({"text": "other"}))
    with pytest.raises(IntegrityError, match=r"does not match the hub's digest .*delete it and run again"):
        list(read_documents("hf:acme/law"))


def test_without_a_connection_and_a_copy_the_remedy_is_said(
    hub: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set: unset it to download"):
        list(read_documents("hf:acme/law"))
