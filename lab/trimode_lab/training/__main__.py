"""`python -m trimode_lab.training --out DIR`: train the tiny model from nothing into a model folder."""

import argparse
import os
import sys
from pathlib import Path

_MALLOC = {
    # memory that is freed stays with the process, in huge pages: two to four times faster steps with glibc
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


def main() -> int:
    """Parse, re-execute if need be, train; 0 when the folder is written."""
    parser = argparse.ArgumentParser(prog="python -m trimode_lab.training", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="model folder to write; also holds the checkpoint")
    parser.add_argument("--minutes", type=float, default=None, help="wall time of the run (default: 60)")
    parser.add_argument("--steps", type=int, default=None, help="steps of the run; repeats exactly, unlike minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--from", dest="start", type=Path, help="go on from this folder's weights, two fifths of the samples with tools"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--export-only", action="store_true", help="write the folder from the checkpoint, train not")
    arguments = parser.parse_args()
    # glibc reads these only as a process starts, so this very command starts again with them.
    if any(os.environ.get(name) != value for name, value in _MALLOC.items()):
        command = [sys.executable, "-m", "trimode_lab.training", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | _MALLOC)
    from trimode_lab.training.console import run_console  # torch loads only in the process that trains

    return run_console(arguments)


if __name__ == "__main__":
    sys.exit(main())
