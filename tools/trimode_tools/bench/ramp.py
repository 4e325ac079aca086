"""`trimode bench --ramp`: a load that rises and falls, and samples of what the policy did. Nothing is judged."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from trimode_api.fleet import PUBLIC_FLEET_PATH, FleetView
from trimode_local.client import Endpoint
from trimode_local.errors import StartFailed
from trimode_local.status_line import summary_of
from trimode_tools.bench.figures import Sample
from trimode_tools.bench.load import Job, Tally
from trimode_tools.bench.served import Load
from trimode_tools.report import Progress

STEPS = (1, 2, 4, 8, 16, 32, 64, 32, 16, 8, 4, 2, 1)
PERIOD_S = 0.25


def run(
    endpoint: Endpoint, load: Load, prompts: Sequence[str], step_s: float, progress: Progress
) -> tuple[list[Sample], Tally]:
    """Drive the ramp, `step_s` seconds a step, and sample the fleet meanwhile."""
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
        step = min(int(seconds / step_s), len(STEPS) - 1)
        seen = summary_of(FleetView.from_wire(endpoint.get(PUBLIC_FLEET_PATH)))
        now = (seen.running, seen.queued, seen.point, seen.reason, seen.tokens_per_second, seen.switches)
        samples.append(Sample(round(seconds, 3), STEPS[step], *now))
        progress(f"{STEPS[step]} clients, {seen.point} ({seen.reason})", step, len(STEPS))
    if not answer:
        raise StartFailed("the load ended in the middle of the ramp")
    return samples, answer[0]
