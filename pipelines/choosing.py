"""Which kernel a run takes, and with that how it is cut."""

from __future__ import annotations

import logging
from collections.abc import Callable

from atc_backtest.errors import ConfigError, UnavailableError
from atc_backtest.kernels import AUTO, get_kernel, gpu_refusal
from atc_backtest.kernels.devices import visible_gpus
from atc_backtest.pipelines import costs
from atc_backtest.pipelines.plan import Plan

logger = logging.getLogger("atc_backtest.kernels")


def kernel_of(asked: str, elsewhere: bool) -> str:
    """The kernel's name; of `auto` the CPU's, or `auto` where the work is done `elsewhere`: by workers of a scheduler.

    Those take the best that each of them has, and need what is named more than this process does. Errors as those
    of `get_kernel`.
    """
    try:
        found = get_kernel(asked).name
    except UnavailableError:
        if not elsewhere:
            raise
        return asked
    return AUTO if asked == AUTO and elsewhere else found


def choose(asked: str, plan_with: Callable[[str], Plan], processes: bool, elsewhere: bool = False) -> tuple[str, Plan]:
    """The kernel of a run and its plan, of those that `plan_with` makes for kernels.

    `auto` is the CPU's where that would be done about as soon, by `costs`. Beyond, threads take the GPU's once it has
    shown its bits in this process, and `processes` of this machine, if it has a GPU, decide each for itself: `auto`.
    """
    name = kernel_of(asked, elsewhere)
    plan = plan_with(get_kernel().name if name == AUTO else name)
    if asked != AUTO or elsewhere or plan.seconds <= costs.GPU_START_S:
        return name, plan
    faster = _gpu_plan(plan_with)
    if faster is None or faster.seconds + costs.GPU_START_S >= costs.GPU_WORTH * plan.seconds:
        return name, plan
    if processes:
        return (AUTO, faster) if visible_gpus() else (name, plan)
    return ("cuda", faster) if gpu_refusal() is None else (name, plan)


def _gpu_plan(plan_with: Callable[[str], Plan]) -> Plan | None:
    """The plan with the GPU's kernel, None where its processes do not fit into the memory limit."""
    try:
        return plan_with("cuda")
    except ConfigError as error:
        if visible_gpus():
            logger.warning("The GPU is not taken: %s", error)
        return None
