"""`trimode bench --ramp`: a load that rises and falls, and what the policy made of it.

Belongs here: the ramp, the samples taken from `/fleet` meanwhile, and their picture. Nothing is judged.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from trimode_api.fleet import PUBLIC_FLEET_PATH, FleetView
from trimode_local.client import Endpoint
from trimode_local.errors import StartFailed
from trimode_local.status_line import PROBE, summary_of
from trimode_tools.bench.load import Job, Tally
from trimode_tools.bench.measure import Progress
from trimode_tools.bench.plot import COLOURS, FAINT, GRID, axes_style
from trimode_tools.bench.served import Load

STEPS = (1, 2, 4, 8, 16, 32, 64, 32, 16, 8, 4, 2, 1)
PERIOD_S = 0.25


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the fleet. `seconds` since the ramp began."""

    seconds: float
    clients: int
    running: int
    queued: int
    point: str
    reason: str
    tokens_per_s: float
    switches: int


def run(
    endpoint: Endpoint, load: Load, prompts: Sequence[str], step_s: float, progress: Progress
) -> tuple[list[Sample], Tally]:
    """Drive the ramp, `step_s` seconds a step, and look at the fleet meanwhile."""
    load.begin(Job([(clients, step_s) for clients in STEPS], prompts))
    began, samples, done = time.monotonic(), [], threading.Event()
    answer: list[Tally] = []

    def wait() -> None:
        try:
            answer.append(load.end())
        finally:
            done.set()

    threading.Thread(target=wait, daemon=True).start()
    while not done.wait(PERIOD_S):
        seconds = time.monotonic() - began
        clients = STEPS[min(int(seconds / step_s), len(STEPS) - 1)]
        seen = summary_of(FleetView.from_wire(endpoint.get(PUBLIC_FLEET_PATH)))
        samples.append(
            Sample(
                round(seconds, 3),
                clients,
                seen.running,
                seen.queued,
                seen.point,
                seen.reason,
                seen.tokens_per_second,
                seen.switches,
            )
        )
        progress(f"ramp: {clients} clients, {seen.point} ({seen.reason})")
    if not answer:
        raise StartFailed("the load ended in the middle of the ramp")
    return samples, answer[0]


def write(samples: Sequence[Sample], decisions: FleetView, tally: Tally, about: dict[str, Any], folder: Path) -> None:
    """ramp.json and ramp.png."""
    changes = [change.model_dump(mode="json", by_alias=True) for change in decisions.decisions]
    content = about | {"samples": [asdict(s) for s in samples], "changes": changes, "load": asdict(tally)}
    (folder / "ramp.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    draw(samples, folder / "ramp.png")


def draw(samples: Sequence[Sample], file: Path) -> None:
    """Clients and speed over time, on a ground in the colour of the point that runs."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    with mpl.rc_context(axes_style()):
        figure, (above, below) = plt.subplots(2, 1, figsize=(9.6, 5.2), sharex=True, height_ratios=(2, 1))
        seconds = [sample.seconds for sample in samples]
        above.plot(seconds, [sample.tokens_per_s for sample in samples], color=COLOURS["adaptive"], linewidth=2.4)
        above.set_ylabel("tokens per second")
        below.step(seconds, [sample.clients for sample in samples], color=FAINT, linewidth=1.8, where="post")
        below.set_yscale("log", base=2)
        below.set_yticks([1, 4, 16, 64], ["1", "4", "16", "64"])
        below.set_ylabel("clients")
        below.set_xlabel("seconds")
        for axis in (above, below):
            axis.grid(axis="y", color=GRID)
            axis.tick_params(length=0)
            for side in ("top", "right", "left"):
                axis.spines[side].set_visible(False)
            for start, end, point in _stretches(samples):
                axis.axvspan(start, end, color=COLOURS.get(point, GRID), alpha=0.13, linewidth=0)
        top = above.get_ylim()[1] * 1.1  # room for the names of the points
        above.set_ylim(0, top)
        for start, end, point in _stretches(samples):
            if end - start > (seconds[-1] - seconds[0]) / 22:
                above.text((start + end) / 2, top * 0.97, point, ha="center", va="top", color=COLOURS.get(point, FAINT))
        above.set_title("A load that rises and falls: the point that runs", loc="left", fontweight="bold")
        figure.tight_layout()
        figure.savefig(file, dpi=160)
        plt.close(figure)


def _stretches(samples: Sequence[Sample]) -> list[tuple[float, float, str]]:
    """From, to and point of each time without a change; a probe is none."""
    found: list[tuple[float, float, str]] = []
    for before, after in pairwise(samples):
        point = found[-1][2] if found and before.reason == PROBE else before.point
        if found and found[-1][2] == point:
            found[-1] = (found[-1][0], after.seconds, point)
        else:
            found.append((before.seconds, after.seconds, point))
    return found
