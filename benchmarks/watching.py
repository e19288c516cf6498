"""Children of a benchmark: what they print, how long they take, and the most memory that each of them held."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.02


def descendants(pid: int) -> list[int]:
    """A process and all below it that live."""
    found = [pid]
    try:
        lists = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:  # it ended between listing and reading
        return found
    for children in lists:
        for child in children.split():
            found += descendants(int(child))
    return found


def peak_bytes(pid: int) -> int:
    """The most memory that a process has held, from /proc; 0 when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


@dataclass(frozen=True)
class Watched:
    """What came of a command. `peaks`: bytes that each of its processes held at most, the largest first."""

    output: str
    peaks: tuple[int, ...]
    seconds: float
    cpu_seconds: float

    @property
    def peak(self) -> int:
        """Of all processes together: the sum of their peaks, which is no less than the peak of the sum."""
        return sum(self.peaks)


def watched(command: list[str]) -> Watched:
    """Run a command and watch it; ends this program where it fails."""
    began, cpu_began = time.perf_counter(), children_cpu()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        peaks: dict[int, int] = {}
        ended = threading.Event()

        def sample() -> None:
            while not ended.wait(SAMPLE_SECONDS):
                for pid in descendants(child.pid):
                    peaks[pid] = max(peaks.get(pid, 0), peak_bytes(pid))

        sampler = threading.Thread(target=sample)
        sampler.start()
        output, _ = child.communicate()
        ended.set()
        sampler.join()
    if child.returncode:
        sys.exit(f"{' '.join(command)} ended with {child.returncode}")
    most = tuple(sorted(peaks.values(), reverse=True))
    return Watched(output, most, time.perf_counter() - began, children_cpu() - cpu_began)


def children_cpu() -> float:
    """Seconds of CPU of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
