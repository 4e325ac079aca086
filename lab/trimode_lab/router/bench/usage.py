"""CPU time and memory of a process and its descendants.

Belongs here: reading /proc.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def tree(root: int) -> list[int]:
    """A process and its descendants."""
    found = [root]
    for one in found:
        for file in Path(f"/proc/{one}/task").glob("*/children"):
            found += map(int, file.read_text().split())
    return found


def cpu_seconds(root: int) -> float:
    """Time on a core, of threads that still live: to the nanosecond, where `stat` counts hundredths of a second."""
    nanoseconds = 0
    for one in tree(root):
        for file in Path(f"/proc/{one}/task").glob("*/schedstat"):
            with suppress(OSError):  # the thread has ended
                nanoseconds += int(file.read_text().split()[0])
    return nanoseconds / 1e9


def memory_mb(root: int) -> float:
    pages = sum(int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in tree(root))
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
