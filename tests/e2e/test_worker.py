"""A real worker process: it composes, is killed and replaced, is cancelled, and exits on request."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from registry.blobs import LocalBlobStore
from registry.catalog import queries
from registry.database.schema import Run
from registry.home import Registry, open_registry
from registry.queue.runs import get_metrics, get_run, list_runs, request_cancel
from registry.records import RunRecord
from ui.queue import jobs
from ui.queue.worker import start_local

if TYPE_CHECKING:
    from conftest import Shell

DEADLINE_SECONDS = 300.0
POLL_SECONDS = 0.1
STEPS = 200
SEQUENCE, BATCH = 64, 512


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """Poll until `condition` returns a true value, and return this value. Fails after the deadline."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {DEADLINE_SECONDS:.0f} s for {what}"
        time.sleep(POLL_SECONDS)
    return value


@pytest.fixture
def registry(stocked: Shell) -> Iterator[Registry]:
    """The stocked shell's registry."""
    opened = open_registry(stocked.home, embedder="hashing:64")
    yield opened
    opened.engine.dispose()


@pytest.fixture
def start_worker(stocked: Shell) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts workers, and ends those that are still running after a failed test."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: str) -> subprocess.Popen[str]:
        started.append(stocked.start("worker", *options))
        return started[-1]

    yield start
    for worker in started:
        if worker.poll() is None:
            worker.kill()
        worker.communicate()


def queue(registry: Registry, name: str, steps: int = STEPS, random_seed: int = 0) -> RunRecord:
    """Queue a composition with this number of training steps."""
    training = {
        "tokens": steps * BATCH,
        "sequence_length": SEQUENCE,
        "batch_tokens": BATCH,
        "random_seed": random_seed,
    }
    recipe = {"name": name, "seed": "pico", "experts": ["code", "law"], "training": training}
    recipe["trunk_merge"] = "regmean"
    return jobs.submit(registry, "compose", {"recipe": recipe})


def losses(registry: Registry, run: RunRecord) -> list[tuple[int, float]]:
    return get_metrics(registry, run.id).get("loss", [])


def has_ended(registry: Registry, run: RunRecord) -> bool:
    return not get_run(registry, run.id).is_live


def let_the_lease_expire(registry: Registry, run: RunRecord) -> None:
    with registry.session() as session:
        session.get_one(Run, run.id).lease_until = datetime.now(UTC) - timedelta(seconds=1)


def leave(worker: subprocess.Popen[str]) -> int:
    worker.terminate()
    worker.communicate(timeout=DEADLINE_SECONDS)
    return worker.returncode


def test_a_run_survives_kill_9_of_its_worker_with_the_result_of_an_undisturbed_one(
    registry: Registry, start_worker: Callable[..., subprocess.Popen[str]]
) -> None:
    steps = 80
    run = queue(registry, "disturbed", steps)
    first = start_worker("--name", "first")
    wait_until(lambda: list(registry.home.glob("work/*/checkpoint-*/nexusmix-digests.json")), "a checkpoint")
    (child,) = psutil.Process(first.pid).children()
    first.kill()
    wait_until(lambda: not child.is_running(), "the work to end with its worker")
    left = get_run(registry, run.id)
    assert (left.state, left.worker) == ("running", "first")
    assert len(losses(registry, run)) < steps, "it was killed in the middle"
    let_the_lease_expire(registry, run)

    second = start_worker("--name", "second")
    wait_until(lambda: has_ended(registry, run), "the second worker")
    ended = get_run(registry, run.id)
    assert (ended.state, ended.attempt, ended.worker) == ("succeeded", 2, "second"), ended.log
    assert ended.result is not None
    assert ended.result["mix"] == "disturbed@1"
    assert [step for step, _ in losses(registry, run)] == list(range(1, steps + 1))

    whole = queue(registry, "undisturbed", steps)
    wait_until(lambda: has_ended(registry, whole), "the undisturbed run")
    assert leave(second) == 0
    assert get_run(registry, whole.id).attempt == 1
    manifests = [queries.get_mix(registry, name).manifest for name in ("disturbed", "undisturbed")]
    assert manifests[0] == manifests[1]
    assert losses(registry, run) == losses(registry, whole)
    assert [mix.ref for mix in queries.list_mixes(registry) if mix.name == "disturbed"] == ["disturbed@1"]


def test_a_worker_that_was_stopped_loses_its_lease_and_is_fenced_off_when_it_comes_back(
    registry: Registry, start_worker: Callable[..., subprocess.Popen[str]]
) -> None:
    run = queue(registry, "stopped", random_seed=4)
    first = start_worker("--name", "first")
    wait_until(lambda: get_run(registry, run.id).stage, "the work to begin")
    (child,) = psutil.Process(first.pid).children()
    first.send_signal(signal.SIGSTOP)
    assert get_run(registry, run.id).state == "running"
    let_the_lease_expire(registry, run)

    second = start_worker("--name", "second")
    wait_until(lambda: get_run(registry, run.id).worker == "second", "the second worker")
    ended_or_zombie = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    wait_until(lambda: child.status() in ended_or_zombie, "the old attempt to find itself fenced off")
    wait_until(lambda: has_ended(registry, run), "the second attempt")
    first.send_signal(signal.SIGCONT)
    assert leave(first) == leave(second) == 0
    ended = get_run(registry, run.id)
    assert (ended.state, ended.attempt, ended.worker) == ("succeeded", 2, "second"), ended.log
    assert [mix.ref for mix in queries.list_mixes(registry) if mix.name == "stopped"] == ["stopped@1"]


def test_cancelling_ends_the_work_and_publishes_nothing(
    stocked: Shell, registry: Registry, start_worker: Callable[..., subprocess.Popen[str]]
) -> None:
    run = queue(registry, "cancelled", steps=100_000, random_seed=1)
    worker = start_worker("--once")
    wait_until(lambda: get_run(registry, run.id).stage, "the work to begin")
    (child,) = psutil.Process(worker.pid).children()
    assert stocked.json("runs", "cancel", run.id)["cancel_requested"]
    output = worker.communicate(timeout=DEADLINE_SECONDS)
    assert worker.returncode == 0, output
    assert not child.is_running()
    assert get_run(registry, run.id).state == "cancelled"
    assert "cancelled" not in [mix.name for mix in queries.list_mixes(registry)]
    followed = stocked.run("runs", "follow", run.id)
    assert (followed.returncode, "cancelled" in followed.stdout) == (1, True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_asked_to_leave_gives_its_run_back_without_costing_an_attempt(
    registry: Registry, start_worker: Callable[..., subprocess.Popen[str]], number: int
) -> None:
    run = queue(registry, f"given-back-{number}", steps=100_000, random_seed=2)
    worker = start_worker()
    wait_until(lambda: get_run(registry, run.id).stage, "the work to begin")
    (child,) = psutil.Process(worker.pid).children()
    worker.send_signal(number)
    output = worker.communicate(timeout=DEADLINE_SECONDS)
    assert worker.returncode == 0, output
    assert not child.is_running()
    back = get_run(registry, run.id)
    assert (back.state, back.attempt, back.worker) == ("queued", 0, None)
    request_cancel(registry, run.id)


def test_work_that_is_killed_costs_an_attempt_and_the_last_one_fails_the_run(
    registry: Registry, start_worker: Callable[..., subprocess.Popen[str]]
) -> None:
    run = queue(registry, "killed", steps=100_000, random_seed=3)
    with registry.session() as session:
        session.get_one(Run, run.id).max_attempts = 1
    worker = start_worker("--once")
    wait_until(lambda: get_run(registry, run.id).stage, "the work to begin")
    (child,) = psutil.Process(worker.pid).children()
    child.kill()
    output = worker.communicate(timeout=DEADLINE_SECONDS)
    assert worker.returncode == 0, output
    failed = get_run(registry, run.id)
    assert failed.state == "failed"
    assert "memory ran out; that was attempt 1 of 1" in str(failed.error)


def test_what_the_shell_queues_a_worker_does_and_an_error_of_the_work_is_the_runs_error(
    stocked: Shell, registry: Registry
) -> None:
    options = ("--seed", "pico", "--tokens", "512", "--no-warm-start", "--queue")
    one = stocked.json("compose", "queued", "--experts", "code,law", *options)
    assert stocked.json("compose", "queued", "--experts", "code,law", *options)["run"] == one["run"]
    assert one["request"]["recipe"]["experts"] == ["code@1", "law@1"]
    assert stocked.json("worker", "--once")["runs"] == 1
    shown = stocked.json("runs", "show", one["run"])
    assert (shown["state"], shown["result"]["mix"]) == ("succeeded", "queued@1")
    assert shown["metrics"]["loss"]
    assert "fine-tuning" in shown["log"]

    two = stocked.json("extend", "queued", "cooking", "--tokens", "512", "--queue")
    queries.withdraw(registry, "cooking@1", "a test")
    assert stocked.json("worker", "--once")["runs"] == 1
    failed = stocked.json("runs", "show", two["run"])
    assert (failed["state"], failed["attempt"]) == ("failed", 1)
    assert "cooking@1 was withdrawn: a test" in failed["error"]
    assert stocked.json("runs", "retry", two["run"])["state"] == "queued"
    assert stocked.json("runs", "cancel", two["run"])["state"] == "cancelled"
    assert [row["run"] for row in stocked.json("runs", "--limit", 2)] == [two["run"], one["run"]]
    assert stocked.run("extend", "queued", "nobody", "--queue").returncode == 3


def test_a_worker_with_nothing_to_do_leaves_and_sweeps_what_interrupted_work_left(
    stocked: Shell, registry: Registry
) -> None:
    assert list_runs(registry, states=["queued", "running"]) == []
    store = registry.blobs
    assert isinstance(store, LocalBlobStore)
    left = [store.root / "tmp" / "dead.part", registry.home / "work" / ("0" * 64) / "lock"]
    for file in left:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
        for path in (file, file.parent):
            os.utime(path, (0, 0))
    assert stocked.json("worker", "--once")["runs"] == 0
    assert not left[0].exists()
    assert not left[1].parent.exists()


def test_a_local_worker_leaves_when_the_process_that_started_it_is_gone(registry: Registry) -> None:
    worker = start_local(registry.home)
    assert worker.stdin is not None
    worker.stdin.close()
    assert worker.wait(DEADLINE_SECONDS) == 0


def test_the_worker_itself_never_loads_torch() -> None:
    modules = "ui.queue.worker, ui.queue.jobs, ui.cli.worker, registry.work_folders"
    script = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2]).returncode == 0
