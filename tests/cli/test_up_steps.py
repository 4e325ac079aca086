"""The list that start-up shows."""

import io

from rich.console import Console

from trimode_local.pools import cause
from trimode_local.startup_progress import Checklist, Step, StepState, as_line, shown


def test_each_news_is_told_once() -> None:
    told: list[Step] = []
    now = iter([0.0, 0.0, 1.0, 2.0, 5.0, 5.0])
    steps = Checklist(("Ray", "pool"), lambda: next(now), told.append)
    steps.working("Ray", "starting")
    steps.working("Ray", "starting")
    steps.done("Ray")
    assert [(step.name, step.state, step.seconds) for step in told] == [
        ("Ray", StepState.WORKING, 0.0),
        ("Ray", StepState.DONE, 5.0),
    ]


def test_what_works_when_it_fails_has_failed() -> None:
    steps = Checklist(("a", "b", "c"), lambda: 0.0, lambda step: None)
    steps.done("a")
    steps.working("b")
    steps.failed()
    assert [step.state for step in steps.steps.values()] == [StepState.DONE, StepState.FAILED, StepState.WAITING]


def test_elsewhere_than_on_a_terminal_each_news_is_a_line() -> None:
    stream = io.StringIO()
    with shown(("Ray",), Console(file=stream, width=80)) as steps:
        steps.working("Ray")
        steps.done("Ray", "here")
    assert stream.getvalue().splitlines() == ["… Ray", "✓ Ray: here  0.0 s"]


def test_on_a_terminal_the_list_is_drawn() -> None:
    stream = io.StringIO()
    with shown(("Ray", "pool flex"), Console(file=stream, force_terminal=True, width=80, color_system=None)) as steps:
        steps.working("Ray", "starting")
    assert "pool flex" in stream.getvalue()
    assert "starting" in stream.getvalue()


def test_a_step_as_a_line() -> None:
    assert as_line(Step("Ray", StepState.FAILED, "why")).plain == "✗ Ray: why"


def test_the_cause_is_the_last_error_of_a_traceback() -> None:
    message = """The deployment failed to start 2 times in a row. Error:
  File "x.py", line 3, in start
    raise EngineDied("the engine ended")
trimode_workers.errors.WeightsError: /m/model.safetensors: corrupt or truncated file: header too large

During handling of the above exception, another exception occurred:
RuntimeError: the engine's process ended with code 1
"""
    assert cause(message) == "the engine's process ended with code 1"
    assert cause("Something else\n") == "Something else"
    assert cause("") == "no reason given"
