"""Executors: bounded, patient with what may pass, and unimpressed by items that kill their workers."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from atc_backtest.pipelines.connecting import ONE_THREAD, local_cluster
from atc_backtest.pipelines.executors import Done, Failed, Threads, Tick


def _poison(item: tuple[int, str], tick: Tick) -> int:
    number, folder = item
    once = Path(folder) / f"died-{number}"
    if number == 3 or (number == 5 and not once.exists()):
        once.touch()
        os.kill(os.getpid(), 9)
    return number * number


@pytest.mark.slow
def test_an_item_that_kills_its_worker_is_given_up_and_the_others_come_through(tmp_path: Path) -> None:
    items = [(number, str(tmp_path)) for number in range(8)]
    with local_cluster(2, None) as cluster:
        outcomes = list(cluster.run(_poison, items, lambda bars: None, retries=2))
    results = {one.item[0]: one.result for one in outcomes if isinstance(one, Done)}
    assert results == {number: number * number for number in range(8) if number != 3}
    (failed,) = [one for one in outcomes if isinstance(one, Failed)]
    assert (failed.item[0], failed.attempts) == (3, 3)
    assert failed.error.startswith("WorkerLostError: the worker process died")


def test_two_items_a_worker_are_in_flight_and_no_more() -> None:
    drawn = Counter[str]()

    def items() -> Iterator[int]:
        for number in range(20):
            drawn["all"] += 1
            yield number

    for ended, outcome in enumerate(Threads(2).run(lambda item, tick: item, items(), lambda bars: None), start=1):
        assert isinstance(outcome, Done)
        assert drawn["all"] <= 4 + ended
    assert drawn["all"] == 20


def _greedy(item: int, tick: Tick) -> int:
    if item == 1:
        held = np.ones(10**9 // 8)  # all of it is touched, and stays until the worker is ended
        time.sleep(20)
        return held.size
    return item


@pytest.mark.slow
def test_a_worker_that_takes_more_than_its_share_is_ended() -> None:
    with local_cluster(2, 600 * 10**6) as cluster:
        outcomes = list(cluster.run(_greedy, range(4), lambda bars: None, retries=1))
    (failed,) = [one for one in outcomes if isinstance(one, Failed)]
    assert (failed.item, failed.attempts) == (1, 2)
    assert failed.error.startswith("WorkerLostError")
    assert sorted(one.result for one in outcomes if isinstance(one, Done)) == [0, 2, 3]


def _surroundings(item: int, tick: Tick) -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in ONE_THREAD}


def test_workers_of_a_local_cluster_keep_to_one_thread() -> None:
    with local_cluster(1, 2 * 10**9) as cluster:
        (outcome,) = cluster.run(_surroundings, [0], lambda bars: None)
    assert isinstance(outcome, Done)
    assert set(outcome.result.values()) == {"1"}
