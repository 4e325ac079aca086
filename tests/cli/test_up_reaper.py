"""Nothing is left behind: a real process that adopts orphans and ends them."""

import subprocess
import sys

from trimode_local.reaper import descendants

STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"

FORGETFUL = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
"""
"""Leaves a stubborn child behind, in a session of its own."""

REAPER = """
import os, subprocess, sys
from trimode_local import reaper
reaper.become_reaper()
subprocess.run([sys.executable, "-c", sys.argv[1], sys.argv[2]], check=True)
before = reaper.descendants(os.getpid())
assert len(before) == 1, before
assert reaper.sweep(0.2) == before
assert reaper.descendants(os.getpid()) == ()
print("swept")
"""


def test_a_stubborn_orphan_is_adopted_and_ended() -> None:
    command = [sys.executable, "-c", REAPER, FORGETFUL, STUBBORN]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "swept\n", done.stderr


def test_children_are_found_with_their_children() -> None:
    code = "import subprocess; p = subprocess.Popen(['cat'], stdin=subprocess.PIPE); print(p.pid, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        grandchild = int(child.stdout.readline())
        assert descendants(child.pid) == (grandchild,)
        child.communicate("\n")
