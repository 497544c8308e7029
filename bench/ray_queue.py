"""Run a queue on Ray nodes that die: python -m bench.ray_queue [--runs 60] [--nodes 3] [--kill-every 10].

It starts a Ray cluster on this machine, with a head that executes nothing and nodes of one core each. The queue has
short compositions of pico models. At each interval one node is killed by SIGKILL with all its processes, and a new one
joins. Then it prints how each run ended, and fails if one ended twice, or not at all.

Needs `pip install 'nexusmix[ray,test]'`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

CODE = Path(__file__).parents[1]
sys.path.insert(0, str(CODE / "tests"))
EXPERTS = ("code", "math", "law")
# Ray reads them when it is imported.
SETTINGS = {
    "RAY_AUTH_MODE": "disabled",  # the cluster is reachable from this machine only
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",
    "RAY_DEDUP_LOGS": "0",
    "PYTHONPATH": str(CODE),
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "OMP_NUM_THREADS": "1",
}


class Nodes:
    """Ray nodes of one core each; one after the other is killed."""

    def __init__(self, count: int) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": 0}
        self.cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        self.count = count
        self.alive = [self.cluster.add_node(num_cpus=1) for _ in range(count)]
        self.killed = self.hit = 0  # nodes; those of them that executed a job

    @property
    def address(self) -> str:
        """Address for Ray Jobs."""
        return f"http://{self.cluster.head_node.webui_url}"

    def replace_one(self) -> None:
        """Kill a random node, and let a new one join."""
        while len(self.alive) < self.count:
            self.alive.append(self.cluster.add_node(num_cpus=1))
        node = self.alive.pop(random.randrange(len(self.alive)))
        # A command of a job outlives its raylet, which it would not if the machine had died.
        raylets = [psutil.Process(each.process.pid) for each in node.all_processes["raylet"]]
        processes = [process for raylet in raylets for process in raylet.children(recursive=True)]
        self.hit += any("--run" in _command(process) for process in processes)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.cluster.remove_node(node, allow_graceful=False)
        self.killed += 1
        # On a busy machine it may start too slowly; then it joins at the next interval.
        with contextlib.suppress(Exception):
            self.alive.append(self.cluster.add_node(num_cpus=1))


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []


def main() -> int:
    """Run the queue and print the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--kill-every", type=float, default=10.0)
    parser.add_argument("--most-seconds", type=float, default=3600.0)
    given = parser.parse_args()
    os.environ |= SETTINGS
    random.seed(0)
    with tempfile.TemporaryDirectory(prefix="nexusmix-") as folder:
        return measure(Path(folder), given)


def measure(folder: Path, given: argparse.Namespace) -> int:
    """Queue the runs, execute them while nodes die, and return the exit code."""
    from pico_registry import stocked_registry

    from composer.mix.recipe import Recipe
    from registry.queue.runs import get_run, submit
    from ui.queue.dispatcher import Dispatcher
    from ui.queue.executors import executor_named

    registry = stocked_registry(folder, EXPERTS)
    recipes = [Recipe(name=f"mix-{n}", seed="pico", experts=list(EXPERTS)) for n in range(given.runs)]
    ids = [submit(registry, "compose", {"recipe": each.model_dump(mode="json")}).id for each in recipes]
    nodes = Nodes(given.nodes)
    executor = executor_named("ray", address=nodes.address, template=None, logs=folder)
    one = Dispatcher(registry, executor, say=lambda _: None, cpus=1, most=2 * given.nodes)
    ended: Counter[int] = Counter()
    live, began, jobs = set(ids), time.monotonic(), 0
    while live and time.monotonic() - began < given.most_seconds:
        jobs += one.step()
        now_ended = {number for number in live if not get_run(registry, number).is_live}
        ended.update(now_ended)
        live -= now_ended
        if time.monotonic() - began > (nodes.killed + 1) * given.kill_every:
            nodes.replace_one()
        time.sleep(0.5)
    seconds = time.monotonic() - began
    ended.update(number for number in ids if number not in live and get_run(registry, number).is_live)
    nodes.cluster.shutdown()
    return report(
        registry,
        ids,
        ended,
        f"{seconds:.0f} s, {jobs} jobs, {nodes.killed} nodes killed, {nodes.hit} with a job",
    )


def report(registry: Any, ids: list[int], ended: Counter[int], how: str) -> int:
    """Print how the runs ended, and return 1 if one did not end exactly once."""
    from registry.catalog.queries import list_mixes
    from registry.queue.runs import get_run

    runs = [get_run(registry, number) for number in ids]
    mixes = Counter(mix.name for mix in list_mixes(registry))
    published = sum(run.state == "succeeded" for run in runs)
    print(f"- {len(runs)} runs: {how}")
    print(f"- states: {dict(Counter(run.state for run in runs))}")
    print(f"- attempts: {dict(sorted(Counter(run.attempt for run in runs).items()))}")
    print(f"- mixes published: {mixes.total()} with {len(mixes)} names, of {published} that succeeded")
    for run in runs:
        if run.state != "succeeded":
            print(f"- run {run.id}: {run.state}: {run.error}")
    once = all(ended[number] == 1 for number in ids) and all(count == 1 for count in mixes.values())
    return 0 if once and mixes.total() == published else 1


if __name__ == "__main__":
    raise SystemExit(main())
