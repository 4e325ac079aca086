"""Orders that `up` cannot carry out: the sender is told, and `up` goes on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from structlog.testing import capture_logs

from trimode_api.resource import NemotronDeployment
from trimode_local import control_socket
from trimode_local.control_socket import Order
from trimode_local.runner import Stack

TINY = yaml.safe_load((Path(__file__).parents[2] / "examples" / "tiny.yaml").read_text(encoding="utf-8"))


def a_stack(apply: Any = None) -> Stack:
    """As much of a stack as orders look at."""
    deployment = NemotronDeployment.parse(TINY)
    router = SimpleNamespace(url="http://127.0.0.1:8000")
    return cast(Stack, SimpleNamespace(deployment=deployment, router=router, version=3, apply=apply))


def test_an_error_that_nobody_foresaw_ends_nothing() -> None:
    def apply(deployment: NemotronDeployment, model: Path) -> None:
        raise RuntimeError("the controller is gone")

    order = Order("apply", TINY)
    with capture_logs() as logs:
        line = control_socket.take(order, a_stack(apply))
    assert line == "apply failed: RuntimeError: the controller is gone"
    answer = order.wait(0)
    assert answer["status"] == 1
    assert "the controller is gone" in answer["error"]
    assert [entry["event"] for entry in logs] == ["order failed"]
    status = Order("status")
    control_socket.take(status, a_stack())
    assert status.wait(0) == {"name": "tiny", "url": "http://127.0.0.1:8000", "generation": 3}


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (Order("dance"), "unknown order 'dance'"),
        (Order("apply", {**TINY, "spec": {**TINY["spec"], "tires": []}}), "tires"),
    ],
)
def test_a_bad_order_is_refused_with_the_reason(order: Order, words: str) -> None:
    line = control_socket.take(order, a_stack())
    assert line.startswith("apply refused: ")
    answer = order.wait(0)
    assert answer["status"] == 2
    assert words in answer["error"]
