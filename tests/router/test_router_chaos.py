"""Short rounds of `python -m trimode_router.chaos`: real processes, every request accounted for, every token checked.

Longer rounds: `python -m trimode_router.chaos --seconds 60`.
"""

from __future__ import annotations

from typing import Any

import pytest

from trimode_router.chaos.__main__ import Result, play, table
from trimode_router.chaos.load import Account
from trimode_router.chaos.scenarios import SCENARIOS

SECONDS = {"soak": 20.0, "hang": 9.0, "all gone": 6.0, "router SIGTERM": 6.0}
CLIENTS = 50
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


def check(result: Result) -> None:
    account = result.account
    assert result.fine, (account.ends, account.examples)
    assert account.ends["ok"] > CLIENTS
    assert result.tasks < 50
    assert result.grown_descriptors < CLIENTS
    assert result.grown_mb < 20


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.parametrize("name", list(BY_NAME))
async def test_nothing_is_lost(name: str) -> None:
    result = await play(BY_NAME[name], SECONDS.get(name, 5.0), CLIENTS)
    check(result)
    if name in ("kill -9", "hang", "reset", "all gone"):
        assert result.account.resumed > 0


def test_a_lost_request_shows() -> None:
    account = Account()
    account.note("ok")
    result = Result(BY_NAME["calm"], account, 0.0, 0, 5)
    assert result.fine
    for end in ("error", "wrong", "refused", "unconnected", "left"):
        bad: Any = Account()
        bad.note("ok")
        bad.note(end, "why")
        assert not Result(BY_NAME["calm"], bad, 0.0, 0, 5).fine
    assert "| calm | 1 | 1 |" in table([result])
