"""What every measuring command does around its measurement: the folder, the progress, what was measured on what."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from trimode_local import console
from trimode_local.errors import BadInput
from trimode_local.preflight import machine_cores, machine_gpus, machine_memory

PACKAGES = ("trimode", "torch", "ray", "numpy", "aiohttp")

Progress = Callable[[str, int, int], None]
"""(what was measured, turns done, turns in all)."""


def about() -> dict[str, Any]:
    """The command line, the machine and the load of others on it as the run began, versions of what ran."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    cpus = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = (line.partition(":")[2].strip() for line in cpus if line.startswith("model name"))
    machine = {
        "processor": next(models, platform.machine()),
        "cores": machine_cores(),
        "memoryMiB": machine_memory() >> 20,
        "gpus": machine_gpus(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "loadAverage": round(os.getloadavg()[0], 2),
    }
    return {"command": shlex.join(["trimode", *sys.argv[1:]]), "machine": machine, "versions": versions}


def folder(out: str) -> Path:
    """The folder of `--out`, made where it is missing. Raises BadInput."""
    made = Path(out)
    try:
        made.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise BadInput(f"--out {out}: {exc.strerror}") from exc
    return made


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def say_written(*files: Path) -> None:
    console.err.print(Text(f"wrote {', '.join(map(str, files))}", style="dim"), soft_wrap=True)


@contextmanager
def progress(verb: str) -> Iterator[Progress]:
    """A bar on a terminal, a line for each tenth elsewhere: `measured 3 of 30: AR at 1`."""
    if not console.err.is_terminal:
        said: set[int] = set()

        def say(words: str, done: int, total: int) -> None:
            tenth = 10 * done // total
            if tenth not in said:
                said.add(tenth)
                console.err.print(f"{verb} {done} of {total}: {words}", soft_wrap=True)

        yield say
        return
    columns = (TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console.err, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda words, done, total: bar.update(task, description=words, completed=done, total=total)
