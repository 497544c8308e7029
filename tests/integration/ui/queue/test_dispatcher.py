"""The dispatcher: a job for each waiting run, another one after a death, and executors with stand-ins and real Ray."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pytest

from registry.errors import InvalidInputError, StorageError
from registry.home import Registry
from registry.queue.claims import claim
from registry.queue.runs import get_run, request_cancel, submit
from ui.queue import jobs
from ui.queue.dispatcher import MOST_LOST, Dispatcher
from ui.queue.executors import executor_named
from ui.queue.executors.base import Needs
from ui.queue.executors.slurm import SlurmExecutor

EXPIRED = -60.0


class Recorder:
    """An executor whose jobs do nothing until a test ends them."""

    def __init__(self) -> None:
        self.commands: list[Sequence[str]] = []
        self.needs: list[Needs] = []
        self.environments: list[Mapping[str, str]] = []
        self.running: set[str] = set()
        self.cancelled: list[str] = []
        self.lost: set[str] = set()

    def submit(self, name: str, command: Sequence[str], environment: Mapping[str, str], needs: Needs) -> str:
        self.commands.append(command)
        self.needs.append(needs)
        self.environments.append(environment)
        self.running.add(job := str(len(self.commands)))
        return job

    def alive(self, jobs: Collection[str]) -> set[str]:
        return self.running & set(jobs)

    def cancel(self, job: str) -> None:
        self.cancelled.append(job)

    def output(self, job: str) -> str:
        return "python: not found"

    def was_lost(self, job: str) -> bool:
        return job in self.lost


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def dispatcher(registry: Registry, recorder: Recorder, most: int = 16) -> Dispatcher:
    return Dispatcher(registry, recorder, say=lambda _: None, cpus=2, most=most)


def queued(registry: Registry, number: int = 1) -> int:
    return submit(registry, "evaluate", {"mix": f"team@{number}"}).id


def test_each_queued_run_gets_one_job(registry: Registry, recorder: Recorder) -> None:
    runs = [queued(registry, number) for number in (1, 2)]
    one = dispatcher(registry, recorder)
    assert [one.step(), one.step()] == [2, 0]
    assert [command[-2:] for command in recorder.commands] == [["--run", str(run)] for run in runs]
    assert recorder.environments[0]["NEXUSMIX_HOME"] == str(registry.home)
    assert recorder.needs[0] == Needs(cpus=2)


def test_no_more_jobs_than_allowed_exist_at_a_time(registry: Registry, recorder: Recorder) -> None:
    for number in range(3):
        queued(registry, number)
    assert dispatcher(registry, recorder, most=2).step() == 2


def test_a_run_whose_worker_died_gets_another_job(registry: Registry, recorder: Recorder) -> None:
    run, one = queued(registry), dispatcher(registry, recorder)
    one.step()
    assert claim(registry, "job 1", EXPIRED, run_id=run) is not None
    assert one.step() == 0, "its job may still run"
    recorder.running.clear()
    assert one.step() == 1


def test_a_run_with_a_valid_lease_gets_no_second_job(registry: Registry, recorder: Recorder) -> None:
    run = queued(registry)
    assert claim(registry, "another worker", 60.0, run_id=run) is not None
    assert dispatcher(registry, recorder).step() == 0


def test_the_waiting_job_of_a_cancelled_run_is_stopped(registry: Registry, recorder: Recorder) -> None:
    run, one = queued(registry), dispatcher(registry, recorder)
    one.step()
    request_cancel(registry, run)
    one.step()
    assert recorder.cancelled == ["1"]


def test_a_run_fails_after_three_jobs_that_could_not_begin_it(registry: Registry, recorder: Recorder) -> None:
    run, one = queued(registry), dispatcher(registry, recorder)
    for _ in range(4):
        one.step()
        recorder.running.clear()
    ended = get_run(registry, run)
    assert ended.state == "failed" and ended.error is not None and "python: not found" in ended.error
    assert len(recorder.commands) == 3


def test_machines_that_die_do_not_fail_a_run_that_they_never_began(
    registry: Registry, recorder: Recorder
) -> None:
    run, one = queued(registry), dispatcher(registry, recorder)
    for number in range(10):
        assert one.step() == 1
        recorder.lost.add(str(number + 1))
        recorder.running.clear()
    one.step()
    assert get_run(registry, run).state == "queued"
    assert len(recorder.commands) == 11
    for _ in range(4):  # now the command itself fails
        recorder.running.clear()
        one.step()
    assert get_run(registry, run).state == "failed"


def test_a_run_fails_when_its_machines_die_again_and_again(registry: Registry, recorder: Recorder) -> None:
    run, one = queued(registry), dispatcher(registry, recorder)
    for number in range(MOST_LOST):
        assert one.step() == 1
        recorder.lost.add(str(number + 1))
        recorder.running.clear()
    one.step()
    assert get_run(registry, run).state == "failed"
    assert len(recorder.commands) == MOST_LOST


def test_a_composition_asks_for_the_estimated_memory(filled: Registry, recorder: Recorder) -> None:
    recipe = {"name": "team", "seed": "smol", "experts": ["code", "law"]}
    from composer.mix.recipe import Recipe

    jobs.submit(filled, "compose", {"recipe": Recipe.parse(recipe).model_dump(mode="json")})
    dispatcher(filled, recorder).step()
    memory = recorder.needs[0].memory
    assert memory is not None and memory > 100 * 2**20


STAND_INS = {
    # Runs the script at once, and writes its process's number.
    "sbatch": 'cat > "$JOBS/script.sh"; sh "$JOBS/script.sh" > /dev/null 2>&1 & echo "$!;cluster"',
    "squeue": 'for file in "$JOBS"/waiting/*; do basename "$file"; done',
    "scancel": 'rm "$JOBS/waiting/$1"',
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmExecutor:
    """An executor with stand-ins for Slurm's programs."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "waiting").mkdir()
    for name, body in STAND_INS.items():
        program = tmp_path / "bin" / name
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("JOBS", str(tmp_path))
    return SlurmExecutor(tmp_path / "logs")


def test_slurm_gets_a_batch_script_with_the_needs_of_the_run(slurm: SlurmExecutor, tmp_path: Path) -> None:
    job = slurm.submit("nexusmix-run-7", ["true", "a b"], {}, Needs(cpus=3, gpus=2, memory=5 * 2**20 + 1))
    assert job.isdecimal()
    lines = (tmp_path / "script.sh").read_text().splitlines()
    assert lines == [
        "#!/bin/sh",
        "#SBATCH --job-name=nexusmix-run-7",
        f"#SBATCH --output={tmp_path / 'logs' / 'nexusmix-run-7.log'}",
        "#SBATCH --cpus-per-task=3",
        "#SBATCH --gpus=2",
        "#SBATCH --mem=6M",
        "exec true 'a b'",
    ]


def test_slurm_lists_and_cancels_jobs(slurm: SlurmExecutor, tmp_path: Path) -> None:
    for job in ("11", "12"):
        (tmp_path / "waiting" / job).touch()
    assert slurm.alive(["11", "13"]) == {"11"}
    slurm.cancel("11")
    assert slurm.alive(["11", "12"]) == {"12"}
    with pytest.raises(StorageError, match="scancel failed"):
        slurm.cancel("99")


def test_a_site_can_give_its_own_template(slurm: SlurmExecutor, tmp_path: Path) -> None:
    template = tmp_path / "site.sh"
    template.write_text("#!/bin/sh\n#SBATCH --account=me@@site\n@resources\nsrun @command\n")
    site = SlurmExecutor(tmp_path, template)
    assert site.script("n", ["work"], Needs()).splitlines()[1:] == [
        "#SBATCH --account=me@site",
        "#SBATCH --cpus-per-task=1",
        "srun work",
    ]
    template.write_text("@cores")
    with pytest.raises(InvalidInputError, match="cores"):
        SlurmExecutor(tmp_path, template)


def test_slurm_needs_its_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StorageError, match="sbatch, squeue, scancel not found"):
        executor_named("slurm", address=None, template=None, logs=tmp_path)


def test_an_unknown_executor_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="expected one of local, ray, slurm"):
        executor_named("moon", address=None, template=None, logs=tmp_path)


def test_a_run_of_the_queue_is_a_job_of_a_real_ray_head(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # it is reachable from this machine only
    monkeypatch.setenv("RAY_DASHBOARD_STARTUP_TIMEOUT_S", "300")
    ray = pytest.importorskip("ray")
    code = Path(__file__).parents[4]
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(code))
    context = ray.init(
        num_cpus=1,
        include_dashboard=True,
        dashboard_port=0,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    try:
        address = f"http://{context.dashboard_url}"
        executor = executor_named("ray", address=address, template=None, logs=registry.home)
        one = Dispatcher(registry, executor, say=lambda _: None, cpus=1, most=4)
        run = submit(registry, "no such work", {}).id
        deadline = time.monotonic() + 300
        while get_run(registry, run).is_live:
            assert time.monotonic() < deadline
            one.step()
            time.sleep(0.5)
    finally:
        ray.shutdown()
    ended = get_run(registry, run)
    assert ended.error is not None and "does not support run kind" in ended.error
    assert ended.attempt == 1
