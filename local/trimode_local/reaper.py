"""Leave no process behind: children die with their parent, and a final sweep ends what is left.

Belongs here: the few Linux calls that make it so. While `trimode up` lives it is the reaper of all its descendants,
so that none can slip away to init; if it is killed, its direct children get a signal from the kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True)
_POLL_S = 0.05


def become_reaper() -> None:
    """Adopt every orphaned descendant of this process from now on."""
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent() -> None:
    """For a child, between fork and exec: SIGTERM once the thread that started it ends."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def descendants(root: int) -> tuple[int, ...]:
    """Process ids below `root`, parents first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended meanwhile
            # The name may hold spaces and brackets, so what counts stands behind the last bracket.
            status = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
            children.setdefault(int(status.split()[1]), []).append(int(entry.name))
    found: list[int] = []
    queue = [root]
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += below
    return tuple(found)


def sweep(grace_s: float, clock: Callable[[], float] = time.monotonic) -> tuple[int, ...]:
    """End all descendants: SIGTERM, SIGKILL after `grace_s`, reaped. Returns those that were still there."""
    signalled = descendants(os.getpid())
    _signal(signalled, signal.SIGTERM)
    deadline = clock() + grace_s
    while _reap() and clock() < deadline:
        time.sleep(_POLL_S)
    while _reap():
        _signal(descendants(os.getpid()), signal.SIGKILL)
        time.sleep(_POLL_S)
    return signalled


def _reap() -> bool:
    """Collect the children that have ended; whether any is left."""
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        return False
    return True


def _signal(pids: tuple[int, ...], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
