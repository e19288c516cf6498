"""Who may hold which bytes of a device, and when."""

from __future__ import annotations

import threading

import pytest
from host_device import HostDriver

from atc_backtest.config import AtcConfig, PerFamily
from atc_backtest.kernels.cuda import FIXED_BYTES, SLOTS, device_plan
from atc_backtest.kernels.device import Ledger, least_busy
from atc_backtest.kernels.device_tables import stream_of
from atc_backtest.kernels.protocol import State


def test_a_ledger_lets_in_what_fits_in_the_order_of_asking() -> None:
    ledger, order = Ledger(), []
    inside, leave = threading.Event(), threading.Event()

    def hold(name: str, n_bytes: int) -> None:
        with ledger.reserve(n_bytes, 100):
            order.append(name)
            inside.set()
            leave.wait(10)

    def wait_for(asked: int) -> None:
        while ledger.load[1] != asked:
            threading.Event().wait(0.001)

    threads = [threading.Thread(target=hold, args=args) for args in (("first", 60), ("whole", 500), ("small", 10))]
    asked = 0
    for thread, n_bytes in zip(threads, (60, 500, 10), strict=True):
        thread.start()
        wait_for(asked := asked + n_bytes)
    assert inside.wait(10)
    assert order == ["first"]  # the small one would fit, but not before the one that asked earlier
    leave.set()
    for thread in threads:
        thread.join(10)
    assert order == ["first", "whole", "small"]
    with pytest.raises(KeyError), ledger.reserve(70, 100):
        raise KeyError
    with ledger.reserve(100, 100):
        assert ledger.load == (0, 100)
    assert ledger.load == (0, 0)


def test_a_plan_counts_workspaces_in_the_device_s_memory() -> None:
    stream = State.new([AtcConfig(lengths=PerFamily(*([4000] * 6)))], 100).streams[0]
    work = stream_of(stream.key).work_bytes(1)
    without = device_plan(stream, 100, 500, 2, 1 << 40).projected_device_bytes
    assert device_plan(stream, 100, 500, 2, 1 << 40, 30).projected_device_bytes == without + SLOTS * 30 * work
    budget = FIXED_BYTES + 8 * 500 + 9 * SLOTS * work
    assert 1 <= device_plan(stream, 100, 500, 2, budget, 30).symbols < 9


def test_a_group_goes_to_the_device_with_the_fewest() -> None:
    one, two, three = devices = [HostDriver() for _ in range(3)]
    with two.ledger.reserve(5, 100), least_busy(devices) as first, least_busy(devices) as second:
        assert (first, second) == (one, three)  # none has a group, but two has bytes
        with least_busy(devices) as third, least_busy(devices) as fourth:
            assert (third, fourth) == (two, one)
    with pytest.raises(KeyError), least_busy(devices):
        raise KeyError
    assert [device.ledger.load for device in devices] == [(0, 0)] * 3
