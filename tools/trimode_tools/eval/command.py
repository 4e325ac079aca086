"""`trimode eval`: ask, mark, write eval.json, eval.md and eval.png, show a table.

Belongs here: the command's course and its output.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from trimode_api.modes import OperatingPoint
from trimode_local import console
from trimode_local.client import KEY_VARIABLE, Endpoint
from trimode_local.errors import BadInput
from trimode_local.source import model_folder
from trimode_tools.bench import machine
from trimode_tools.eval import endpoint, engine, questions
from trimode_tools.eval.engine import Plan
from trimode_tools.eval.metrics import Mark, Run, mark
from trimode_tools.eval.plot import draw
from trimode_tools.eval.questions import Question
from trimode_tools.eval.table import as_json, markdown, rich_table

DIFFUSION_GRID = tuple(f"D{block}@{threshold}" for block in (8, 16, 32) for threshold in (0.7, 0.9, 0.99))
POINTS = ("AR", "S8", "S16", "S32", *DIFFUSION_GRID)
"""What a model is asked at where no points are given."""


@dataclass(frozen=True, slots=True)
class Options:
    """The command line. `model` and `adapter` are for an engine of our own, `url` for one that serves."""

    out: str
    model: str
    adapter: str | None
    url: str | None
    prompts: str | None
    samples: int
    points: str | None
    concurrency: int
    max_tokens: int
    price_per_hour: float | None


def evaluate(wanted: Options) -> None:
    """The whole command. Raises TrimodeError."""
    folder = Path(wanted.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise BadInput(f"--out {wanted.out}: {exc.strerror}") from exc
    given = None if wanted.points is None else parse_points(wanted.points)
    asked = questions.suite(wanted.samples) if wanted.prompts is None else questions.read(wanted.prompts)
    runs, name = _of_endpoint(wanted, asked, given) if wanted.url else _of_engine(wanted, asked, given)
    marks = marks_of(runs, asked, wanted.price_per_hour)
    _write(folder, wanted, name, marks, len(asked))
    console.out.print(rich_table(marks, f"{name}: {len(asked)} questions, {_load(wanted)}"))
    names = ", ".join(str(folder / f"eval.{kind}") for kind in ("json", "md", "png"))
    console.err.print(Text(f"wrote {names}", style="dim"), soft_wrap=True)


def parse_points(text: str) -> tuple[str, ...]:
    """`AR,S8,D32@0.9` as points, each once. Raises BadInput."""
    try:
        return tuple(dict.fromkeys(str(OperatingPoint.parse(part.strip())) for part in text.split(",")))
    except ValueError as exc:
        raise BadInput(f"--points: {exc}") from exc


def marks_of(runs: Sequence[Run], asked: Sequence[Question], price: float | None) -> list[Mark]:
    """A mark for each run; AR's run, where there is one, is what the others are compared with."""
    reference = next((run for run in runs if run.point == "AR"), None)
    tasks = [question.task for question in asked]
    return [
        mark(
            run,
            [question.right(answer.text) for question, answer in zip(asked, run.answers, strict=True)],
            tasks,
            reference,
            price,
        )
        for run in runs
    ]


def _of_engine(wanted: Options, asked: Sequence[Question], given: tuple[str, ...] | None) -> tuple[list[Run], str]:
    folder = model_folder(wanted.model, wanted.adapter)
    plan = Plan(given or POINTS, wanted.max_tokens, wanted.concurrency)
    with _progress() as progress:
        return engine.ask(folder, wanted.adapter, asked, plan, progress), wanted.model


def _of_endpoint(wanted: Options, asked: Sequence[Question], given: tuple[str, ...] | None) -> tuple[list[Run], str]:
    assert wanted.url is not None
    server = Endpoint(wanted.url, key=os.environ.get(KEY_VARIABLE, ""))
    try:
        allowed = endpoint.allowed(server)
        if given is not None and (missing := [point for point in given if point not in allowed]):
            raise BadInput(f"--points: {', '.join(missing)}: the endpoint allows {', '.join(allowed)}")
        plan = Plan(given or allowed, wanted.max_tokens, wanted.concurrency)
        with _progress() as progress:
            return endpoint.ask(server, asked, plan, progress), server.model()
    finally:
        server.close()


def _write(folder: Path, wanted: Options, name: str, marks: Sequence[Mark], count: int) -> None:
    facts = machine.facts()
    content = {
        "command": shlex.join(["trimode", *sys.argv[1:]]),
        "machine": facts,
        "versions": machine.versions(),
        "model": name,
        "questions": count,
        "source": wanted.prompts or "the task suite, prompts held out of training",
        "concurrency": wanted.concurrency,
        "maxTokens": wanted.max_tokens,
        "pricePerHour": wanted.price_per_hour,
        "points": as_json(marks),
    }
    (folder / "eval.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / "eval.md").write_text(markdown(marks), encoding="utf-8")
    subtitle = f"{name}, {count} questions, greedy, {_load(wanted)}; {facts['processor']}, {facts['cores']} cores"
    draw(marks, "Test it before you build on it", subtitle, folder / "eval.png")


def _load(wanted: Options) -> str:
    return "one at a time" if wanted.concurrency == 1 else f"{wanted.concurrency} at a time"


@contextmanager
def _progress() -> Iterator[engine.Progress]:
    """A bar on a terminal, a line for each tenth elsewhere."""
    if not console.err.is_terminal:
        told: set[int] = set()

        def say(done: int, total: int) -> None:
            tenth = 10 * done // total
            if tenth not in told:
                told.add(tenth)
                console.err.print(f"asked {done} of {total}", soft_wrap=True)

        yield say
        return
    columns = (TextColumn("asking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console.err, transient=True) as bar:
        task = bar.add_task("asking", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
