"""The queue of runs: idempotent submission, claims, leases, fences, one final state, and protection from gc."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import publishing
import pytest

from registry.catalog import queries
from registry.catalog.gc import collect
from registry.database.engine import current_revision
from registry.database.schema import REVISION
from registry.errors import ConflictError, InvalidInputError, NotFoundError
from registry.home import Registry, open_registry
from registry.queue.claims import LOG_CHARACTERS, claim, finish, heartbeat, release, report
from registry.queue.runs import (
    count_runs,
    get_metrics,
    get_run,
    list_runs,
    request_cancel,
    retry,
    submit,
)
from registry.records import Metric, RunRecord

LEASE = 60.0
EXPIRED = -1.0
REQUEST = {"mix": "team@1", "expert": "law@2"}


def claimed(registry: Registry, lease: float = LEASE, worker: str = "first") -> RunRecord:
    run = claim(registry, worker, lease)
    assert run is not None
    return run


def test_submitting_twice_gives_one_run_while_it_is_live_and_another_afterwards(
    any_registry: Registry,
) -> None:
    first = submit(any_registry, "extend", REQUEST)
    assert submit(any_registry, "extend", dict(reversed(REQUEST.items()))).id == first.id
    assert submit(any_registry, "remove", REQUEST).id != first.id
    run = claimed(any_registry)
    assert submit(any_registry, "extend", REQUEST).id == run.id == first.id
    finish(any_registry, run.fence, "succeeded")
    assert submit(any_registry, "extend", REQUEST).id > first.id


def test_a_key_of_the_callers_own_decides_what_is_the_same(any_registry: Registry) -> None:
    first = submit(any_registry, "compose", {"tokens": 1}, key="click 1")
    assert submit(any_registry, "compose", {"tokens": 2}, key="click 1") == first
    assert submit(any_registry, "compose", {"tokens": 1}, key="click 2").id != first.id


def test_many_processes_that_submit_the_same_at_once_make_one_run(
    database_url: str, any_registry: Registry
) -> None:
    imports = (
        "from pathlib import Path\n"
        "from registry.home import open_registry\n"
        "from registry.queue.runs import submit\n"
        "registry = open_registry(Path(sys.argv[1]), database_url=sys.argv[2])"
    )
    body = "print(submit(registry, 'compose', {'name': 'team'}).id)"
    ids = publishing.race(imports, body, 4, str(any_registry.home), database_url)
    assert ids == ["1"] * 4


def test_a_request_that_json_cannot_express_is_refused(any_registry: Registry) -> None:
    with pytest.raises(InvalidInputError, match="JSON"):
        submit(any_registry, "compose", {"learning_rate": float("nan")})
    assert list_runs(any_registry) == []


def test_several_claimers_at_once_get_different_runs(database_url: str, any_registry: Registry) -> None:
    for number in range(4):
        submit(any_registry, "compose", {"number": number})
    imports = (
        "from pathlib import Path\n"
        "from registry.home import open_registry\n"
        "from registry.queue.claims import claim\n"
        "registry = open_registry(Path(sys.argv[1]), database_url=sys.argv[2])"
    )
    body = "run = claim(registry, 'w', 60)\nprint(run.id if run else 'none')"
    ids = publishing.race(imports, body, 4, str(any_registry.home), database_url)
    assert sorted(ids) == ["1", "2", "3", "4"]
    assert claim(any_registry, "late", LEASE) is None


def test_runs_are_claimed_in_the_order_in_which_they_came(any_registry: Registry) -> None:
    ids = [submit(any_registry, "compose", {"number": number}).id for number in range(3)]
    assert [claimed(any_registry).id for _ in ids] == ids


def test_an_expired_lease_is_taken_over_and_the_old_worker_is_fenced_off(any_registry: Registry) -> None:
    submit(any_registry, "compose", REQUEST)
    old = claimed(any_registry, EXPIRED)
    new = claimed(any_registry, worker="second")
    assert (new.id, new.attempt, new.worker) == (old.id, 2, "second")
    assert new.token > old.token
    assert new.started_at == old.started_at
    late = (
        lambda: heartbeat(any_registry, old.fence, LEASE),
        lambda: report(any_registry, old.fence, progress=("late", 1, 1), log="late", metrics=[Metric("x", 1, 1)]),
        lambda: finish(any_registry, old.fence, "succeeded", result={"mix": "late@1"}),
        lambda: release(any_registry, old.fence),
        lambda: publishing.add_seed(replace(any_registry, fence=old.fence)),
    )  # fmt: skip
    for write in late:
        with pytest.raises(ConflictError, match="taken over by second"):
            write()
    assert get_run(any_registry, new.id) == new
    assert get_metrics(any_registry, new.id) == {}
    assert queries.list_seeds(any_registry) == []


def test_a_lease_that_is_renewed_is_not_taken_over(any_registry: Registry) -> None:
    submit(any_registry, "compose", REQUEST)
    run = claimed(any_registry, EXPIRED)
    heartbeat(any_registry, run.fence, LEASE)
    assert claim(any_registry, "second", LEASE) is None


def test_attempts_are_bounded_and_the_error_says_what_ended_the_last(any_registry: Registry) -> None:
    run = submit(any_registry, "compose", REQUEST, max_attempts=2)
    for attempt in (1, 2):
        assert claimed(any_registry, EXPIRED).attempt == attempt
    assert claim(any_registry, "third", LEASE) is None
    failed = get_run(any_registry, run.id)
    assert failed.state == "failed"
    assert failed.error is not None
    assert "attempt 2 of 2" in failed.error


def test_work_that_dies_costs_an_attempt_and_a_worker_that_leaves_costs_none(any_registry: Registry) -> None:
    submit(any_registry, "compose", REQUEST, max_attempts=2)
    assert release(any_registry, claimed(any_registry).fence).state == "queued"
    run = claimed(any_registry)
    assert run.attempt == 1
    assert release(any_registry, run.fence, error="killed by signal 9").state == "queued"
    run = claimed(any_registry)
    assert run.attempt == 2
    ended = release(any_registry, run.fence, error="killed by signal 9")
    assert ended.state == "failed"
    assert ended.error == "killed by signal 9; that was attempt 2 of 2"


def test_a_run_that_waits_is_cancelled_at_once(any_registry: Registry) -> None:
    run = submit(any_registry, "compose", REQUEST)
    assert request_cancel(any_registry, run.id).state == "cancelled"
    assert claim(any_registry, "first", LEASE) is None


def test_a_run_whose_worker_is_gone_is_cancelled_at_once(any_registry: Registry) -> None:
    submit(any_registry, "compose", REQUEST)
    run = claimed(any_registry, EXPIRED)
    assert request_cancel(any_registry, run.id).state == "cancelled"
    with pytest.raises(ConflictError, match="is cancelled"):
        heartbeat(any_registry, run.fence, LEASE)


@pytest.mark.parametrize("order", [("succeeded", "cancelled"), ("cancelled", "succeeded")])
def test_cancelling_and_completing_leave_the_state_that_came_first(
    any_registry: Registry, order: tuple[str, str]
) -> None:
    submit(any_registry, "compose", REQUEST)
    run = claimed(any_registry)
    assert request_cancel(any_registry, run.id).state == "running"
    assert request_cancel(any_registry, run.id).cancel_requested
    finish(any_registry, run.fence, order[0])  # type: ignore[arg-type]
    with pytest.raises(ConflictError, match=f"is {order[0]}"):
        finish(any_registry, run.fence, order[1])  # type: ignore[arg-type]
    assert get_run(any_registry, run.id).state == order[0]
    with pytest.raises(ConflictError, match=rf"has already ended \({order[0]}\)"):
        request_cancel(any_registry, run.id)


def test_many_processes_that_end_a_run_at_once_give_it_one_final_state(
    database_url: str, any_registry: Registry
) -> None:
    run = submit(any_registry, "compose", REQUEST)
    claimed(any_registry)
    imports = (
        "from pathlib import Path\n"
        "from registry.home import open_registry\n"
        "from registry.errors import ConflictError\n"
        "from registry.queue.claims import finish\n"
        "from registry.records import Fence\n"
        "registry = open_registry(Path(sys.argv[1]), database_url=sys.argv[2])"
    )
    body = (
        "import os\n"
        "state = ('succeeded', 'failed', 'cancelled')[os.getpid() % 3]\n"
        "try:\n"
        "    print(finish(registry, Fence(1, 1), state).state)\n"
        "except ConflictError:\n"
        "    print('refused')"
    )
    said = publishing.race(imports, body, 4, str(any_registry.home), database_url)
    assert said.count("refused") == 3
    assert get_run(any_registry, run.id).state in said


def test_a_cancelled_run_publishes_nothing(any_registry: Registry) -> None:
    submit(any_registry, "compose", REQUEST)
    run = claimed(any_registry)
    request_cancel(any_registry, run.id)
    with pytest.raises(ConflictError, match="nothing was published"):
        publishing.add_seed(replace(any_registry, fence=run.fence))
    assert queries.list_seeds(any_registry) == []


def test_a_run_that_has_published_has_succeeded_even_if_it_is_cancelled_or_killed_then(
    any_registry: Registry,
) -> None:
    for number, end in enumerate(("cancelled", "failed")):
        submit(any_registry, "compose", {"number": number}, max_attempts=1)
        run = claimed(any_registry)
        publishing.add_seed(replace(any_registry, fence=run.fence), f"seed-{number}")
        ended = finish(any_registry, run.fence, end, error="too late")  # type: ignore[arg-type]
        assert (ended.state, ended.result, ended.error) == ("succeeded", {"seed": f"seed-{number}"}, None)


def test_a_run_publishes_once(any_registry: Registry) -> None:
    submit(any_registry, "compose", REQUEST)
    own = replace(any_registry, fence=claimed(any_registry).fence)
    publishing.add_seed(own, "one")
    with pytest.raises(ConflictError, match="published"):
        publishing.add_seed(own, "two")
    assert [seed.name for seed in queries.list_seeds(any_registry)] == ["one"]


def test_progress_figures_and_the_tail_of_the_log_are_kept(any_registry: Registry) -> None:
    submit(any_registry, "compose", REQUEST)
    run = claimed(any_registry)
    write = lambda **what: report(any_registry, run.fence, **what)  # noqa: E731
    write(progress=("merging", 3, 9), metrics=[Metric("loss", 2, 1.5), Metric("loss", 1, 2.5)], log="one\n")
    since = get_run(any_registry, run.id).stage_started_at
    write(progress=("merging", 4, 9), metrics=[Metric("loss", 2, 1.25), Metric("loss", 3, float("nan"))])
    write(log="two\0\n")
    now = get_run(any_registry, run.id)
    assert (now.stage, now.done, now.total, now.stage_started_at) == ("merging", 4, 9, since)
    assert now.log == "one\ntwo\n"
    assert get_metrics(any_registry, run.id) == {"loss": [(1, 2.5), (2, 1.25)]}
    write(log="x" * LOG_CHARACTERS + "end")
    assert get_run(any_registry, run.id).log == "x" * (LOG_CHARACTERS - 3) + "end"
    assert list_runs(any_registry)[0].log == ""


def test_a_long_runs_figures_may_all_come_at_once_and_again(any_registry: Registry) -> None:
    submit(any_registry, "compose", REQUEST)
    run = claimed(any_registry)
    metrics = [Metric("loss", step, 1 / step) for step in range(1, 20_001)]
    for _ in range(2):
        report(any_registry, run.fence, metrics=metrics)
    assert get_metrics(any_registry, run.id)["loss"] == [(m.step, m.value) for m in metrics]


def test_a_run_that_published_before_its_worker_died_is_not_done_again(any_registry: Registry) -> None:
    submit(any_registry, "compose", REQUEST)
    publishing.add_seed(replace(any_registry, fence=claimed(any_registry, EXPIRED).fence), "done")
    assert claim(any_registry, "second", LEASE) is None
    (run,) = list_runs(any_registry)
    assert (run.state, run.result) == ("succeeded", {"seed": "done"})


def test_a_run_that_fails_because_it_was_cancelled_is_cancelled(any_registry: Registry) -> None:
    submit(any_registry, "compose", REQUEST)
    run = claimed(any_registry)
    request_cancel(any_registry, run.id)
    assert finish(any_registry, run.fence, "failed", error="nothing was published").state == "cancelled"


def test_a_failed_run_is_tried_again_under_its_own_number_with_all_its_attempts(
    any_registry: Registry,
) -> None:
    submit(any_registry, "compose", REQUEST)
    run = claimed(any_registry)
    finish(any_registry, run.fence, "failed", error="disk full")
    again = retry(any_registry, run.id)
    assert (again.id, again.state, again.attempt, again.error) == (run.id, "queued", 0, None)
    assert claimed(any_registry).token > run.token
    with pytest.raises(ConflictError, match="taken over"):
        finish(any_registry, run.fence, "succeeded")


def test_what_is_live_or_has_succeeded_is_not_tried_again(any_registry: Registry) -> None:
    submit(any_registry, "compose", REQUEST)
    run = claimed(any_registry)
    with pytest.raises(ConflictError, match="is running"):
        retry(any_registry, run.id)
    finish(any_registry, run.fence, "failed", error="x")
    other = submit(any_registry, "compose", REQUEST)
    with pytest.raises(ConflictError, match=f"run {other.id} is queued"):
        retry(any_registry, run.id)


@pytest.mark.parametrize("number", [0, 7, -1, 2**70])
def test_an_unknown_run_is_not_found(any_registry: Registry, number: int) -> None:
    for ask in (get_run, get_metrics, request_cancel, retry):
        with pytest.raises(NotFoundError, match="nexusmix runs"):
            ask(any_registry, number)


def test_lists_show_the_newest_first_by_state_and_kind_and_in_pages(any_registry: Registry) -> None:
    ids = [submit(any_registry, "compose", {"number": number}).id for number in range(3)]
    ids.append(submit(any_registry, "evaluate", REQUEST).id)
    claimed(any_registry)
    assert [run.id for run in list_runs(any_registry)] == ids[::-1]
    assert [run.id for run in list_runs(any_registry, limit=2, before=ids[3])] == [ids[2], ids[1]]
    assert [run.id for run in list_runs(any_registry, states=["running"])] == [ids[0]]
    assert [run.id for run in list_runs(any_registry, kind="evaluate")] == [ids[3]]
    assert count_runs(any_registry) == {"queued": 3, "running": 1}


def test_garbage_collection_spares_what_was_stored_since_the_oldest_live_run_began(
    any_registry: Registry,
) -> None:
    old, needed = any_registry.blobs.put_bytes(b"old"), any_registry.blobs.put_bytes(b"needed")
    submit(any_registry, "compose", REQUEST)
    run = claimed(any_registry)
    assert run.started_at is not None
    before = (run.started_at - timedelta(seconds=5)).timestamp()
    os.utime(any_registry.blobs.path(old), (before, before))
    after = (run.started_at + timedelta(seconds=5)).timestamp()
    os.utime(any_registry.blobs.path(needed), (after, after))
    assert collect(any_registry, grace=timedelta(0)).blobs == (old,)
    release(any_registry, run.fence)
    assert collect(any_registry, grace=timedelta(days=-1)).blobs == ()
    finish(any_registry, claimed(any_registry).fence, "failed", error="x")
    assert collect(any_registry, grace=timedelta(days=-1)).blobs == (needed,)


def test_a_database_of_the_first_release_gains_the_queue_and_keeps_its_rows(database_url: str) -> None:
    from alembic import command
    from alembic.config import Config

    from registry.database.engine import create_engine, migrate

    engine = create_engine(database_url)
    config = Config()
    config.set_main_option("script_location", "registry.database:migrations")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.exec_driver_sql("INSERT INTO blobs VALUES ('sha256:1', 1, '2026-01-01 00:00:00')")
    migrate(engine)
    with engine.connect() as connection:
        assert current_revision(connection) == REVISION
        assert connection.exec_driver_sql("SELECT count(*) FROM blobs").scalar() == 1
        assert connection.exec_driver_sql("SELECT count(*) FROM runs").scalar() == 0
    engine.dispose()


def test_a_worker_whose_clock_is_behind_takes_over_a_dead_run_in_time(
    new_postgres: Callable[..., str], migrated_postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Behind(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) - timedelta(hours=1)

    with open_registry(tmp_path / "home", database_url=new_postgres(migrated_postgres)) as registry:
        run = submit(registry, "evaluate", {})
        assert claim(registry, "dead", -1.0) is not None
        monkeypatch.setattr("registry.queue.runs.datetime", Behind)
        taken = claim(registry, "behind", 60.0)
        assert taken is not None and (taken.id, taken.attempt) == (run.id, 2)
