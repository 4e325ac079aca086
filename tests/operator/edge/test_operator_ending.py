"""The end of a resource, step by step."""

from __future__ import annotations

from typing import Any

import pytest

from trimode_lab.doubles.kubernetes.fleet import fleets, replica, view
from trimode_operator.apply.deletion import WORKERS_MAY_TAKE_S, Step, deadline_of, next_step
from trimode_operator.observe.fleets import NO_FLEETS, Fleets

ALIVE: dict[str, Any] = {"metadata": {"name": "nemo"}}
GOING: dict[str, Any] = {"metadata": {"name": "nemo", "deletionTimestamp": "2026-01-01T00:00:00Z"}}
DRAINED = fleets(view(replica(draining=True)))
DEADLINE = 100.0


@pytest.mark.parametrize(
    ("seen", "workers", "now", "expected"),
    [
        pytest.param(fleets(view(replica())), ALIVE, 1.0, Step.DRAIN, id="new requests could still come"),
        pytest.param(fleets(view(replica(draining=True, running=1))), ALIVE, 1.0, Step.DRAIN, id="one runs"),
        pytest.param(fleets(view(replica(draining=True), in_flight=1)), ALIVE, 1.0, Step.DRAIN, id="one is under way"),
        pytest.param(fleets(view(replica(draining=True), queued=1)), ALIVE, 1.0, Step.DRAIN, id="one waits"),
        pytest.param(DRAINED, ALIVE, 1.0, Step.END_WORKERS, id="drained"),
        pytest.param(
            fleets(view(replica(running=1))), ALIVE, DEADLINE, Step.END_WORKERS, id="no time is left for the last ones"
        ),
        pytest.param(fleets(view(replica(ready=False))), ALIVE, 1.0, Step.END_WORKERS, id="still loading"),
        pytest.param(NO_FLEETS, ALIVE, 1.0, Step.END_WORKERS, id="no router, so no requests"),
        pytest.param(fleets(silent=1), ALIVE, 1.0, Step.END_WORKERS, id="no router answers: pods drain by themselves"),
        pytest.param(DRAINED, GOING, 1.0, Step.WAIT_FOR_WORKERS, id="workers go"),
        pytest.param(DRAINED, GOING, DEADLINE + WORKERS_MAY_TAKE_S, Step.RELEASE, id="workers do not go"),
        pytest.param(DRAINED, None, 1.0, Step.RELEASE, id="workers are gone"),
        pytest.param(fleets(view(replica())), None, 1.0, Step.RELEASE, id="there never were any"),
    ],
)
def test_steps(seen: Fleets, workers: dict[str, Any] | None, now: float, expected: Step) -> None:
    assert next_step(seen, workers, now, DEADLINE) is expected


@pytest.mark.parametrize(
    ("drain", "seconds"),
    [({"timeoutSeconds": 7}, 7), ({"timeoutSeconds": 0}, 0), ({}, 300), ({"timeoutSeconds": "soon"}, 300), (None, 300)]
    + [({"timeoutSeconds": wrong}, 300) for wrong in (True, -1, 1.5, [])]
    + [(wrong, 300) for wrong in ("soon", 7, [])],
)
def test_the_deadline_counts_from_the_deletion_and_survives_a_bad_spec(drain: Any, seconds: int) -> None:
    body = {"metadata": {"deletionTimestamp": "1970-01-01T00:01:40Z"}, "spec": {"drain": drain}}
    assert deadline_of(body) == 100 + seconds


@pytest.mark.parametrize("spec", [None, "text", [], 7, True])
def test_a_spec_that_is_none_has_the_default_deadline(spec: Any) -> None:
    assert deadline_of({"metadata": {"deletionTimestamp": "1970-01-01T00:01:40Z"}, "spec": spec}) == 400
