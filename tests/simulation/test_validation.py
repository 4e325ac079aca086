"""The simulator against published measurements; the bounds are what the documentation states."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimode_lab.validation import fit_host, predict, summary

DATA = Path(__file__).parents[2] / "examples/data"


@pytest.mark.slow
def test_gpu_time_alone_predicts_up_to_32_clients() -> None:
    found = summary(predict(DATA, 0.0))
    assert [clients for clients, row in found.items() if row[2] <= 15.0] == [2, 4, 8, 16, 32]
    measured = [row[0] for row in found.values()]
    predicted = [row[1] for row in found.values()]
    assert sorted(predicted, reverse=True) == predicted
    assert sorted(measured, reverse=True) == measured


@pytest.mark.slow
def test_one_host_constant_predicts_the_saturation() -> None:
    found = summary(predict(DATA, fit_host(DATA)))
    assert all(row[2] <= 32.0 for row in found.values())
    assert found[64][2] <= 10.0
    system = {clients: clients * row[1] for clients, row in found.items()}
    assert system[128] < 1.2 * system[64]
