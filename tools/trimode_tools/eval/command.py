"""`trimode eval`: ask, score, write eval.json, eval.md and eval.png, show a table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from trimode_local import console
from trimode_local.client import KEY_VARIABLE, Endpoint
from trimode_local.download import model_folder
from trimode_local.errors import BadInput
from trimode_tools import points, report
from trimode_tools.eval import questions
from trimode_tools.eval.ask import Plan, allowed, ask_endpoint, ask_engine
from trimode_tools.eval.metrics import Run, Score, score
from trimode_tools.eval.questions import Question
from trimode_tools.eval.show import as_json, draw, markdown, rich_table

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


def evaluate(options: Options) -> None:
    """The whole command. Raises TrimodeError."""
    folder = report.folder(options.out)
    given = None if options.points is None else parse_points(options.points)
    asked = questions.suite(options.samples) if options.prompts is None else questions.read(options.prompts)
    runs, name = _runs(options, asked, given)
    scores = scores_of(runs, asked, options.price_per_hour)
    load = "one at a time" if options.concurrency == 1 else f"{options.concurrency} at a time"
    about = report.about()
    content = {
        **about,
        "model": name,
        "questions": len(asked),
        "source": options.prompts or "the task suite, prompts held out of training",
        "concurrency": options.concurrency,
        "maxTokens": options.max_tokens,
        "pricePerHour": options.price_per_hour,
        "points": as_json(scores),
    }
    files = [folder / f"eval.{kind}" for kind in ("json", "md", "png")]
    report.write_json(files[0], content)
    files[1].write_text(markdown(scores), encoding="utf-8")
    machine = about["machine"]
    subtitle = f"{name}, {len(asked)} questions, greedy, {load}; {machine['processor']}, {machine['cores']} cores"
    draw(scores, "Test it before you build on it", subtitle, files[2])
    console.out.print(rich_table(scores, f"{name}: {len(asked)} questions, {load}"))
    report.say_written(*files)


def parse_points(text: str) -> tuple[str, ...]:
    """`AR,S8,D32@0.9` as points, each once. Raises BadInput."""
    return tuple(map(str, points.parse(text)))


def scores_of(runs: Sequence[Run], asked: Sequence[Question], price: float | None) -> list[Score]:
    """A score for each run; AR's run, where there is one, is what the others are compared with."""
    reference = next((run for run in runs if run.point == "AR"), None)
    tasks = [question.task for question in asked]
    found = []
    for run in runs:
        right = [question.right(answer.text) for question, answer in zip(asked, run.answers, strict=True)]
        found.append(score(run, right, tasks, reference, price))
    return found


def _runs(options: Options, asked: Sequence[Question], given: tuple[str, ...] | None) -> tuple[list[Run], str]:
    """What was answered at every point, and the model's name."""
    if options.url is None:
        folder = model_folder(options.model, options.adapter)
        plan = Plan(given or POINTS, options.max_tokens, options.concurrency)
        with report.progress("asked") as progress:
            told = lambda done, total: progress("asking", done, total)  # noqa: E731
            return ask_engine(folder, options.adapter, asked, plan, told), options.model
    server = Endpoint(options.url, key=os.environ.get(KEY_VARIABLE, ""))
    try:
        offered = allowed(server)
        if given is not None and (missing := [point for point in given if point not in offered]):
            raise BadInput(f"--points: {', '.join(missing)}: the endpoint allows {', '.join(offered)}")
        plan = Plan(given or offered, options.max_tokens, options.concurrency)
        with report.progress("asked") as progress:
            told = lambda done, total: progress("asking", done, total)  # noqa: E731
            return ask_endpoint(server, asked, plan, told), server.model()
    finally:
        server.close()
