"""Work that several processes start at the same time, and work of a killed process."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from datetime import timedelta
from pathlib import Path

import pico
import publishing
import pytest
import warm_process

from composer.formats.folder import new_folder
from registry.catalog import queries
from registry.catalog.gc import Garbage, collect
from registry.home import Registry, open_registry
from registry.intake.intake import add_seed, contribute
from registry.work_folders import occupied, work_folder

COMPOSE = """
recipes = [
    {"name": "team", "seed": "pico", "experts": ["code"], "trunk_merge": "mean", "training": {
        "warm_start": False, "tokens": 256, "sequence_length": 64, "batch_tokens": 128, "random_seed": number}}
    for number in range(3)
]
registry = open_registry(Path(sys.argv[1]), embedder="hashing:16")
print([compose(registry, Recipe.parse(recipe)).mix.manifest for recipe in recipes])
"""
DIE = "os.kill(os.getpid(), signal.SIGKILL)"
OPEN = """
import os, signal, sys
from pathlib import Path
from registry.home import open_registry
registry = open_registry(Path(sys.argv[1]), embedder="hashing:16")
"""


def killed(script: str, *arguments: str) -> None:
    """Run a script that kills itself."""
    process = warm_process.start(OPEN + script, *arguments)
    _out, error = process.communicate()
    assert process.returncode == -signal.SIGKILL, error


def kill_an_export(registry: Registry, target: Path) -> Path:
    """Return the folder that a killed export to `target` leaves."""
    killed(
        f"from composer.formats.folder import new_folder\n"
        f"with new_folder(registry, Path(sys.argv[2])) as folder:\n"
        f"    (folder / 'weights').write_bytes(bytes(50_000))\n"
        f"    {DIE}\n",
        str(registry.home),
        str(target),
    )
    [left] = target.parent.glob(f".{target.name}.*")
    return left


def make_old(folder: Path, seconds: float = 10**6) -> None:
    for path in [*folder.rglob("*"), folder]:
        stamp = path.stat().st_mtime - seconds
        os.utime(path, (stamp, stamp))


def locks(registry: Registry) -> list[Path]:
    return sorted((registry.home / "work").glob("*.lock"))


def collect_now(registry: Registry, **options: bool) -> list[Path]:
    found: Garbage = collect(registry, grace=timedelta(0), **options)
    return [leftover.path for leftover in found.unfinished]


def test_two_processes_that_compose_the_same_recipes_at_once_both_succeed(
    registry: Registry, pico_seed: Path, pico_expert: Path, tmp_path: Path
) -> None:
    add_seed(registry, "pico", pico_seed, license="MIT")
    data = [pico.write_documents(tmp_path / "code.jsonl", "code")]
    contribute(registry, "code", pico_expert, seed="pico", license="MIT", data=data)
    imports = (
        "import composer.training.mix_training, composer.training.fine_tune\n"
        "from pathlib import Path\n"
        "from composer.composition import compose\n"
        "from composer.mix.recipe import Recipe\n"
        "from registry.home import open_registry"
    )
    one, two = publishing.race(imports, COMPOSE, 2, str(registry.home))
    assert one == two
    assert len(queries.list_mixes(registry)) == 6
    assert not list((registry.home / "work").iterdir())


def test_a_process_that_waited_for_a_folder_gets_a_new_one_and_is_alone_in_it(registry: Registry) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(60):
                with occupied(registry, work_folder(registry, "shared")) as folder:
                    (folder / "only one").open("x").close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert not list((registry.home / "work").iterdir())


def test_what_waits_says_so_once(registry: Registry) -> None:
    folder = work_folder(registry, "shared")
    said = threading.Event()

    def second() -> None:
        with occupied(registry, folder, on_wait=said.set):
            pass

    with occupied(registry, folder):
        thread = threading.Thread(target=second)
        thread.start()
        assert said.wait(60)
    thread.join()


@pytest.mark.parametrize("keep", [False, True])
def test_failed_work_is_kept_only_if_the_next_attempt_can_resume_it(registry: Registry, keep: bool) -> None:
    folder = work_folder(registry, "some")
    with pytest.raises(RuntimeError), occupied(registry, folder, keep=keep):
        (folder / "checkpoint").touch()
        raise RuntimeError
    assert folder.exists() is keep
    with occupied(registry, folder, keep=keep):
        assert (folder / "checkpoint").exists() is keep
    assert not folder.exists() and not locks(registry)


def test_a_killed_export_is_found_in_every_folder(registry: Registry, tmp_path: Path) -> None:
    left = kill_an_export(registry, tmp_path / "elsewhere" / "out")
    assert collect(registry).unfinished == ()  # the grace period
    make_old(left)
    [found] = collect(registry, dry_run=True).unfinished
    assert found.path == left and found.size >= 50_000 and left.exists()
    assert [leftover.path for leftover in collect(registry).unfinished] == [left]
    assert not left.exists() and not locks(registry)


def test_a_killed_training_is_found(registry: Registry, tmp_path: Path) -> None:
    out = tmp_path / "expert"
    killed(
        "from registry.work_folders import TRAINING, occupied\n"
        "out = Path(sys.argv[2])\n"
        f"with occupied(registry, out.with_name(f'.{{out.name}}{{TRAINING}}'), keep=True): {DIE}",
        str(registry.home),
        str(out),
    )
    assert tmp_path / ".expert.training" in collect_now(registry)
    assert not list((registry.home / "work").iterdir())


def test_what_older_versions_left_is_found(registry: Registry) -> None:
    for name in ("adapter-x1", "0" * 64):
        (registry.home / "work" / name).mkdir(parents=True)
    (registry.home / "work" / ("0" * 64) / "lock").touch()
    assert len(collect_now(registry, dry_run=True)) == 2
    assert not locks(registry)
    assert len(collect_now(registry)) == 2
    assert not list((registry.home / "work").iterdir())


def test_work_in_progress_is_not_deleted_even_long_after_its_last_write(
    registry: Registry, tmp_path: Path
) -> None:
    with (
        new_folder(registry, tmp_path / "out") as partial,
        occupied(registry, work_folder(registry, "some")) as folder,
    ):
        make_old(partial)
        make_old(folder)
        assert collect_now(registry) == []
        assert partial.exists() and folder.exists()


def test_a_copy_of_a_home_does_not_touch_what_the_original_writes(registry: Registry, tmp_path: Path) -> None:
    with new_folder(registry, tmp_path / "out") as partial:
        copy = open_registry(shutil.copytree(registry.home, tmp_path / "copy"))
        assert collect_now(copy) == []
        assert partial.exists() and not locks(copy)
        copy.engine.dispose()
    assert (tmp_path / "out").is_dir()


@pytest.mark.parametrize("note", ["", "{", "[]", '{"home": "HOME", "folder": "VICTIM"}'])
def test_a_note_that_names_no_temporary_folder_of_ours_removes_nothing(
    registry: Registry, tmp_path: Path, note: str
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    lock = registry.home / "work" / "outside-x.lock"
    lock.parent.mkdir()
    lock.write_text(note.replace("HOME", str(registry.home)).replace("VICTIM", str(victim)))
    assert collect_now(registry) == []
    assert victim.exists() and not lock.exists()
