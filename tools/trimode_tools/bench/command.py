"""`trimode bench`: measure, write bench.json and bench.png, show a table.

Belongs here: the command's course and its output.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from trimode_api.fleet import PUBLIC_FLEET_PATH, FleetView
from trimode_local import console
from trimode_local.errors import BadInput
from trimode_local.preflight import tiny_folder
from trimode_local.source import model_folder
from trimode_tools.bench import machine, ramp
from trimode_tools.bench.figures import ADAPTIVE, POINTS, Figures, Row, best_static, concurrencies, ratios, speed
from trimode_tools.bench.measure import (
    QUICK,
    Budget,
    EngineUnderTest,
    Progress,
    engine_alone,
    questions,
    through_router,
)
from trimode_tools.bench.plot import draw
from trimode_tools.bench.served import Load, endpoint

RAMP_STEP_S = 6.0


def bench(out: str, quick: bool, engine_only: bool, url: str | None) -> None:
    """Both measurements with the packaged model, or the engine's alone. Raises TrimodeError."""
    folder = _folder(out)
    effort = QUICK if quick else Budget()
    prompts = questions()
    tiny = EngineUnderTest(tiny_folder(), threads=1)  # as `examples/tiny.yaml` is served: one core
    with _progress() as progress:
        alone = () if url else engine_alone(tiny, prompts, effort, progress)
        figures = Figures(alone, () if engine_only else _router(url, prompts, effort, progress))
    _report(figures, "tiny model", effort, len(prompts), folder)


def bench_model(out: str, quick: bool, uri: str, draft_adapter: str | None) -> None:
    """The engine alone with a model of one's own, on a GPU where there is one. Raises TrimodeError."""
    folder = _folder(out)
    effort = QUICK if quick else Budget()
    prompts = questions()
    subject = EngineUnderTest(model_folder(uri, draft_adapter), draft_adapter)
    with _progress() as progress:
        figures = Figures(engine=engine_alone(subject, prompts, effort, progress))
    _report(figures, uri, effort, len(prompts), folder)


def _report(figures: Figures, model: str, effort: Budget, prompts: int, folder: Path) -> None:
    """JSON, picture, table and ratios."""
    about = _about()
    workload = {
        "model": model,
        "prompts": prompts,
        "maxTokens": effort.max_tokens,
    }
    content = about | {"workload": workload, "rows": figures.as_json(), "ratios": _ratios(figures)}
    (folder / "bench.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    facts = about["machine"]
    subtitle = f"{model}, greedy, {facts['processor']}, {facts['cores']} cores; medians, points in turns"
    draw(figures.parts(), "One dial: the best mode at every load", subtitle, folder / "bench.png")
    for title, rows in figures.parts().items():
        console.out.print(_table(title, rows))
    for title, words, value in _lines(figures):
        console.out.print(f"{title}: {words} = {value:.2f}", soft_wrap=True)
    _wrote(folder, "bench")


def bench_ramp(out: str, quick: bool, url: str | None) -> None:
    """The load that rises and falls. Raises TrimodeError."""
    folder, prompts = _folder(out), questions()
    with _progress() as progress:
        progress("starting")
        with endpoint(url) as served:
            load = Load(served.url, served.model())
            try:
                samples, tally = ramp.run(served, load, prompts, RAMP_STEP_S / (4 if quick else 1), progress)
                fleet = FleetView.from_wire(served.get(PUBLIC_FLEET_PATH))
            finally:
                load.close()
    ramp.write(samples, fleet, tally, _about(), folder)
    _wrote(folder, "ramp")


def _router(url: str | None, prompts: list[str], effort: Budget, progress: Progress) -> tuple[Row, ...]:
    progress("through the router: starting")
    with endpoint(url) as served:
        load = Load(served.url, served.model())
        try:
            return through_router(load, prompts, effort, progress)
        finally:
            load.close()


def _folder(out: str) -> Path:
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise BadInput(f"--out {out}: {exc.strerror}") from exc
    return folder


def _about() -> dict[str, Any]:
    command = shlex.join(["trimode", *sys.argv[1:]])
    return {"command": command, "machine": machine.facts(), "versions": machine.versions()}


def _ratios(figures: Figures) -> dict[str, dict[str, float]]:
    return {
        title: {ratio.words: round(ratio.value, 3) for ratio in ratios(rows)} for title, rows in figures.parts().items()
    }


def _lines(figures: Figures) -> Iterator[tuple[str, str, float]]:
    for title, rows in figures.parts().items():
        for ratio in ratios(rows):
            yield title, ratio.words, ratio.value


def _table(title: str, rows: tuple[Row, ...]) -> Table:
    """Tokens per second; the best static point of each concurrency stands out."""
    table = Table(title=f"{title}: tokens/s", title_justify="left", box=None, pad_edge=False, padding=(0, 2))
    table.add_column("clients", justify="right")
    for point in POINTS:
        table.add_column(point, justify="right", style="bold cyan" if point == ADAPTIVE else "")
    for level in concurrencies(rows):
        best = best_static(rows, level)
        cells = []
        for point in POINTS:
            value = speed(rows, point, level)
            text = Text("-" if value is None else f"{value:,.0f}")
            if best is not None and point == best[0]:
                text.stylize("bold green")
            cells.append(text)
        table.add_row(str(level), *cells)
    return table


def _wrote(folder: Path, name: str) -> None:
    console.err.print(Text(f"wrote {folder / name}.json and {folder / name}.png", style="dim"), soft_wrap=True)


@contextmanager
def _progress() -> Iterator[Progress]:
    """A spinner with what is measured now on a terminal; a line for each concurrency elsewhere."""
    if console.err.is_terminal:
        with console.err.status("") as status:
            yield status.update
        return
    said: set[str] = set()

    def say(words: str) -> None:
        line = words.partition(", ")[0]
        if line not in said:
            said.add(line)
            console.err.print(line, soft_wrap=True)

    yield say
