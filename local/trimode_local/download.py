"""Shows how far a model's download is: a bar on a terminal, a line for each tenth elsewhere.

Nothing is shown where nothing has to be downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from trimode_local import console as consoles
from trimode_local.errors import BadInput

TENTHS = 10


@contextmanager
def shown(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A function to call with (file, bytes there, bytes in all)."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        yield _Bar(bar)


class _Bar:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("downloading", visible=False)

    def __call__(self, file: str, done: int, total: int) -> None:
        # A file that is there already is told as done at once: a bar for it would be of no download.
        shown = self._progress.tasks[0].visible or done < total
        self._progress.update(self._task, description=file, completed=done, total=total, visible=shown)


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: int | None = None

    def __call__(self, file: str, done: int, total: int) -> None:
        tenth = TENTHS * done // total if total else TENTHS
        if tenth != self._shown and not (self._shown is None and tenth == TENTHS):
            self._shown = tenth
            self._console.print(
                f"downloading {file}: {100 * done // total} % of {total / (1 << 20):.1f} MiB", soft_wrap=True
            )


def model_folder(uri: str, draft_adapter: str | None = None) -> Path:
    """The folder behind `--model URI`, downloaded first where it is on the hub. Raises BadInput."""
    from trimode_workers.sources import Hub, ModelSource, SourceError, fetch

    with shown(consoles.err) as told:
        try:
            return fetch(ModelSource.parse(uri), Hub.from_environment(os.environ), draft_adapter, told)
        except SourceError as exc:
            raise BadInput(f"--model: {exc}") from exc
