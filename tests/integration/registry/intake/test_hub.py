"""Checkpoints from the Hugging Face Hub, from a local stand-in: pinned, checked, with recovery from faults."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pico
import pytest
from hub_stand_in import COMMIT, StandIn, busy, elsewhere, fine, truncated
from pages import button, code, field, open_page

from registry.catalog import queries
from registry.errors import (
    HubError,
    IncompatibleError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    StorageError,
    UnsafeFileError,
)
from registry.home import Registry, open_registry
from registry.intake import hub, sources
from registry.intake.intake import add_seed
from registry.queue import runs

TOKEN = "hf_a_secret"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Durations of the requested waits, the library's too; nothing waits in the test."""
    waited: list[float] = []
    monkeypatch.setattr(hub, "_wait", waited.append)
    clock = SimpleNamespace(sleep=waited.append, time=time.time, monotonic=time.monotonic)
    for module in ("utils._http", "file_download"):
        monkeypatch.setattr(f"huggingface_hub.{module}.time", clock)
    return waited


@pytest.fixture
def served(
    pico_seed: Path, pico_expert: Path, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> Iterator[StandIn]:
    """The hub with acme/seed and acme/expert, which also contain irrelevant files; a token is configured."""
    expert = shutil.copytree(pico_expert, tmp_path / "expert")
    (expert / "README.md").write_text("a card")
    (expert / "modeling_evil.py").write_text("raise SystemExit")
    from huggingface_hub import constants

    with StandIn({"acme/seed": pico_seed, "acme/expert": expert}) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    opened = open_registry(tmp_path / "home", embedder="hashing:16")
    yield opened
    opened.engine.dispose()


def brought(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_revision_is_pinned_to_its_commit_and_only_what_we_read_is_chosen(served: StandIn) -> None:
    snapshot = hub.look_up("hf:acme/expert@v1")
    assert str(snapshot) == sources.pinned("hf:acme/expert") == f"hf:acme/expert@{COMMIT}"
    names = {file.name for file in snapshot.files}
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= names
    assert not names & {"README.md", "modeling_evil.py"}


def test_a_download_is_the_folder_and_is_not_repeated(
    served: StandIn, pico_seed: Path, tmp_path: Path
) -> None:
    snapshot = hub.look_up("hf:acme/seed")
    steps: list[tuple[int, int]] = []
    hub.download(snapshot, tmp_path, lambda _stage, done, total: steps.append((done, total)))
    for file in snapshot.files:
        assert (tmp_path / file.name).read_bytes() == (pico_seed / file.name).read_bytes()
    assert steps[-1][0] == steps[-1][1] == sum(file.size for file in snapshot.files)
    asked = len(served.requests)
    hub.download(snapshot, tmp_path)
    assert len(served.requests) == asked


def test_two_that_open_the_same_revision_at_once_both_get_it(
    served: StandIn, registry: Registry, pico_seed: Path
) -> None:
    expected = (pico_seed / "model.safetensors").read_bytes()
    failures: list[BaseException] = []

    def open_it() -> None:
        try:
            for _ in range(5):
                with sources.opened(registry, "hf:acme/seed", seed=None) as source:
                    assert (source.folder / "model.safetensors").read_bytes() == expected
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert not list((registry.home / "work").iterdir())


def test_a_busy_hub_is_asked_again_when_it_says(served: StandIn, tmp_path: Path, waits: list[float]) -> None:
    served.faults = [busy, busy]
    hub.download(hub.look_up("hf:acme/seed"), tmp_path)
    assert waits and min(waits) >= 7.0  # the hub said 7 seconds


def test_a_hub_that_stays_busy_ends_the_download_and_its_finished_files_are_kept(
    served: StandIn, tmp_path: Path, waits: list[float]
) -> None:
    served.faults = [fine, fine, *[busy] * 100]  # the first file's headers and bytes
    snapshot, folder = hub.look_up("hf:acme/seed"), _new(tmp_path / "files")
    with pytest.raises(HubError, match="status 429"):
        hub.download(snapshot, folder)
    assert 0 < len(waits) < 20
    (kept,) = brought(folder)
    served.faults, served.requests = [], []
    hub.download(snapshot, folder)
    assert not any(path.endswith(f"/{kept}") for path, _token in served.requests)


def test_the_download_of_a_truncated_body_resumes(served: StandIn, pico_seed: Path, tmp_path: Path) -> None:
    snapshot = hub.look_up("hf:acme/seed")
    weights = tuple(file for file in snapshot.files if file.is_weights)
    served.faults = [fine, truncated]
    hub.download(hub.Snapshot("acme/seed", COMMIT, weights), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == (pico_seed / "model.safetensors").read_bytes()


def test_bytes_with_another_digest_are_refused_and_removed(served: StandIn, tmp_path: Path) -> None:
    served.digests["model.safetensors"] = "0" * 64
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        hub.download(hub.look_up("hf:acme/seed"), tmp_path)
    assert not {name for name in brought(tmp_path) if name.startswith("model.safetensors")}


def test_the_token_goes_to_the_hub_and_to_no_other_host(
    served: StandIn, pico_seed: Path, tmp_path: Path
) -> None:
    with StandIn(served.repositories, host="localhost") as other:
        served.faults = [elsewhere(served, other.url)]
        hub.download(hub.look_up("hf:acme/seed"), tmp_path)
    assert {token for _path, token in served.requests} == {f"Bearer {TOKEN}"}
    assert [token for _path, token in other.requests] == [None]


def test_preflight_needs_the_headers_of_the_weights_only(served: StandIn, registry: Registry) -> None:
    snapshot = hub.look_up("hf:acme/seed")
    with sources.headers(snapshot) as folder:
        add_seed(registry, "shell", folder, license="MIT")  # all zeros, but complete in size
        (weights,) = (file for file in snapshot.files if file.is_weights)
        assert (folder / weights.name).stat().st_size == weights.size


def test_an_expert_that_does_not_fit_is_refused_before_its_weights_come(
    served: StandIn, registry: Registry, pico_expert: Path, tmp_path: Path
) -> None:
    add_seed(registry, "base", pico.write_pico(tmp_path / "other", hidden_size=16), license="MIT")
    with (
        pytest.raises(IncompatibleError, match="hidden_size"),
        sources.opened(registry, "hf:acme/expert", seed="base"),
    ):
        pass
    assert not list((registry.home / "work").glob("hub-*"))


def test_a_model_with_an_adapter_in_one_repository_is_refused_before_its_weights_come(
    served: StandIn, registry: Registry, pico_seed: Path
) -> None:
    add_seed(registry, "base", pico_seed, license="MIT")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (served.repositories["acme/expert"] / name).write_bytes(b"{}")
    with (
        pytest.raises(IncompatibleError, match=r"both a model \(model.safetensors\) and an adapter"),
        sources.opened(registry, "hf:acme/expert", seed="base"),
    ):
        pass
    assert not list((registry.home / "work").glob("hub-*"))


def test_a_contribution_from_the_hub_keeps_where_it_came_from_and_leaves_no_download(
    served: StandIn, registry: Registry, pico_seed: Path, tmp_path: Path
) -> None:
    from ui.queue.jobs import execute, submit

    add_seed(registry, "base", pico_seed, license="MIT")
    data = [str(pico.write_documents(tmp_path / "law.jsonl", "law"))]
    request = {"name": "law", "source": "hf:acme/expert", "seed": "base", "license": "MIT", "data": data}
    run = submit(registry, "contribute", request)
    assert run.request["source"] == f"hf:acme/expert@{COMMIT}"
    execute(registry, run, lambda *_: None)
    assert queries.get_expert(registry, "law").provenance["source"] == f"hf:acme/expert@{COMMIT}"
    assert not list((registry.home / "work").glob("hub-*"))


def test_a_full_disk_is_found_before_anything_comes(
    served: StandIn, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(StorageError, match="bytes"), sources.opened(registry, "hf:acme/seed", seed=None):
        pass


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("hf:acme", InvalidInputError, "owner/name"),
        ("hf:../etc/passwd", InvalidInputError, "owner/name"),
        ("hf:acme/nothing", NotFoundError, "no such model"),
        ("hf:acme/seed@v9", NotFoundError, "no such revision"),
        ("hf:acme/pickles", UnsafeFileError, "pickle"),
    ],
)
def test_each_reason_for_a_missing_checkpoint_has_its_own_error(
    served: StandIn, tmp_path: Path, source: str, error: type[Exception], words: str
) -> None:
    served.repositories["acme/pickles"] = tmp_path / "pickles"
    (tmp_path / "pickles").mkdir()
    (tmp_path / "pickles" / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(error, match=words):
        hub.look_up(source)


def test_offline_the_hub_is_not_asked(served: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        hub.look_up("hf:acme/seed")
    assert not served.requests


def test_the_page_asks_the_hub_once_and_queues_the_commit(
    served: StandIn, app_registry: Registry, pico_seed: Path, tmp_path: Path
) -> None:
    add_seed(app_registry, "smol", pico_seed, license="MIT")
    data = pico.write_documents(tmp_path / "law.jsonl", "law")
    app = open_page("contribute")
    field(app, "Folder").set_value("hf:acme/expert@v1").run()
    assert not app.exception and "It fits smol" in app.success[0].value
    asked = len(served.requests)
    field(app, "Name").set_value("law")
    field(app, "Licence").set_value("MIT")
    field(app, "Files or folders").set_value(str(data)).run()
    assert len(served.requests) == asked
    button(app, "Contribute").click().run()
    (run,) = runs.list_runs(app_registry)
    assert run.request["source"] == f"hf:acme/expert@{COMMIT}"


def test_the_page_shows_what_the_hub_refuses_and_asks_again_on_demand(
    served: StandIn, app_registry: Registry, pico_seed: Path, pico_expert: Path
) -> None:
    add_seed(app_registry, "smol", pico_seed, license="MIT")
    app = open_page("contribute")
    field(app, "Folder").set_value("hf:acme/late").run()
    assert not app.exception and "no such model" in code(app)[0]
    served.repositories["acme/late"] = pico_expert
    button(app, "Query the Hub again").click().run()
    assert "It fits smol" in app.success[0].value


def test_a_download_is_in_the_librarys_cache_and_a_full_cache_is_named(
    served: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants, hf_hub_download

    snapshot = hub.look_up("hf:acme/seed")
    hub.download(snapshot, _new(tmp_path / "files"))
    asked = len(served.requests)
    cached = Path(hf_hub_download("acme/seed", "model.safetensors", revision=COMMIT))
    assert cached.read_bytes() == (tmp_path / "files" / "model.safetensors").read_bytes()
    assert len(served.requests) == asked
    (tmp_path / "a file").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "a file"))
    with pytest.raises(StorageError, match="HF_HUB_CACHE"):
        hub.download(snapshot, _new(tmp_path / "again"))


def test_only_the_prefix_names_the_hub() -> None:
    assert not hub.is_hub("/data/hf:odd") and hub.is_hub("hf:a/b")
    assert sources.pinned("folder") == str(Path("folder").absolute())


def test_a_model_in_the_librarys_cache_is_used_from_there_offline(
    served: StandIn, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    snapshot = hub.look_up("hf:acme/seed")
    root = tmp_path / "cache" / "models--acme--seed"
    for folder in ("blobs", f"snapshots/{COMMIT}", "refs"):
        (root / folder).mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    for file in snapshot.files:
        blob = root / "blobs" / file.digest
        shutil.copy(served.repositories["acme/seed"] / file.name, blob)
        (root / "snapshots" / COMMIT / file.name).symlink_to(blob)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    before = len(served.requests)
    hub.download(snapshot, _new(tmp_path / "online"))
    assert len(served.requests) == before
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.look_up("hf:acme/seed") == hub.look_up(f"hf:acme/seed@{COMMIT}") == snapshot
    hub.download(snapshot, _new(tmp_path / "offline"))
    assert {path.name for path in (tmp_path / "offline").iterdir()} == {file.name for file in snapshot.files}
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        hub.look_up("hf:acme/seed@other")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    (damaged,) = [file for file in snapshot.files if file.name == "model.safetensors"]
    (root / "blobs" / damaged.digest).write_bytes(b"x" * damaged.size)
    hub.download(snapshot, _new(tmp_path / "damaged"))
    assert sum(path.endswith("model.safetensors") for path, _ in served.requests) == 2  # HEAD and GET


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder
