"""`trimode bench`: measure, write bench.json and bench.png, show a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trimode_api.fleet import PUBLIC_FLEET_PATH, FleetView
from trimode_local import console
from trimode_local.client import Endpoint
from trimode_local.download import model_folder
from trimode_local.preflight import tiny_folder
from trimode_tools import report
from trimode_tools.bench.figures import Figures, Row, ratios
from trimode_tools.bench.measure import (
    QUICK,
    Budget,
    ModelUnderTest,
    drive_ramp,
    engine_alone,
    questions,
    through_router,
)
from trimode_tools.bench.served import Load, endpoint
from trimode_tools.bench.show import draw, draw_ramp, table

RAMP_STEP_S = 6.0


def bench(out: str, quick: bool, engine_only: bool, url: str | None) -> None:
    """Both measurements with the packaged model, or the engine's alone. Raises TrimodeError."""
    folder = report.folder(out)
    budget = QUICK if quick else Budget()
    prompts = questions()
    tiny = ModelUnderTest(tiny_folder(), threads=1)  # as `examples/tiny.yaml` is served: one core
    alone: tuple[Row, ...] = ()
    routed: tuple[Row, ...] = ()
    if not url:
        with report.progress("measured") as progress:
            alone = engine_alone(tiny, prompts, budget, progress)
    if not engine_only:
        with _loaded(url) as (_, load), report.progress("measured") as progress:
            routed = through_router(load, prompts, budget, progress)
    workload = {"model": "tiny model", "prompts": len(prompts), "maxTokens": budget.max_tokens}
    _write(Figures(alone, routed), workload, folder)


def bench_model(out: str, quick: bool, uri: str, draft_adapter: str | None) -> None:
    """The engine alone with a model of one's own, on a GPU where there is one. Raises TrimodeError."""
    folder = report.folder(out)
    budget = QUICK if quick else Budget()
    prompts = questions()
    model = ModelUnderTest(model_folder(uri, draft_adapter), draft_adapter)
    with report.progress("measured") as progress:
        figures = Figures(engine=engine_alone(model, prompts, budget, progress))
    _write(figures, {"model": uri, "prompts": len(prompts), "maxTokens": budget.max_tokens}, folder)


def bench_ramp(out: str, quick: bool, url: str | None) -> None:
    """The load that rises and falls. Raises TrimodeError."""
    folder, prompts = report.folder(out), questions()
    with _loaded(url) as (served, load), report.progress("step") as progress:
        samples, tally = drive_ramp(served, load, prompts, RAMP_STEP_S / (4 if quick else 1), progress)
        fleet = FleetView.from_wire(served.get(PUBLIC_FLEET_PATH))
    changes = [change.model_dump(mode="json", by_alias=True) for change in fleet.decisions]
    found = {"samples": [asdict(sample) for sample in samples], "changes": changes, "load": asdict(tally)}
    report.write_json(folder / "ramp.json", report.about() | found)
    draw_ramp(samples, folder / "ramp.png")
    report.say_written(folder / "ramp.json", folder / "ramp.png")


@contextmanager
def _loaded(url: str | None) -> Iterator[tuple[Endpoint, Load]]:
    """The endpoint at `url`, or one of our own, and the process that loads it."""
    with endpoint(url) as served:
        load = Load(served.url, served.model())
        try:
            yield served, load
        finally:
            load.close()


def _write(figures: Figures, workload: Mapping[str, Any], folder: Path) -> None:
    """JSON, chart, tables and ratios."""
    about, parts = report.about(), figures.parts()
    summary = {title: {ratio.words: ratio.value for ratio in ratios(rows)} for title, rows in parts.items()}
    rounded = {title: {words: round(value, 3) for words, value in each.items()} for title, each in summary.items()}
    content = about | {"workload": workload, "rows": figures.as_json(), "ratios": rounded}
    report.write_json(folder / "bench.json", content)
    machine = about["machine"]
    subtitle = (
        f"{workload['model']}, greedy, {machine['processor']}, {machine['cores']} cores; medians, points in turns"
    )
    draw(parts, "One dial: the best mode at every load", subtitle, folder / "bench.png")
    for title, rows in parts.items():
        console.out.print(table(title, rows))
    for title, each in summary.items():
        for words, value in each.items():
            console.out.print(f"{title}: {words} = {value:.2f}", soft_wrap=True)
    report.say_written(folder / "bench.json", folder / "bench.png")
