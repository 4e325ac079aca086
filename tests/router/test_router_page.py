"""The dashboard is one file that needs nothing from elsewhere."""

from __future__ import annotations

import re
from typing import Any

from trimode_api.fleet import FleetHistory, FleetSample, FleetView, ReplicaState, RouterState
from trimode_router.edge.routes import PAGE


async def test_the_page_is_served_with_a_policy(house: Any) -> None:
    response = await house.http.get("/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert response.content == PAGE


def test_the_page_loads_nothing_and_renders_no_markup_of_others() -> None:
    page = PAGE.decode()
    assert set(re.findall(r"https?://[^\s\"'`]+", page)) <= {"http://www.w3.org/2000/svg", "http://"}
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|<link|<img|src=", page)


def test_the_page_reads_only_fields_that_exist() -> None:
    """Names after `view.`, `view.router.`, `r.` and `s.` in the script are wire names of the models."""
    script = PAGE.decode().partition("<script>")[2]

    def names(model: Any) -> set[str]:
        return {field.alias or name for name, field in model.model_fields.items()}

    assert set(re.findall(r"\bview\.router\.(\w+)", script)) <= names(RouterState)
    assert set(re.findall(r"\bview\.(\w+)", script)) <= names(FleetView)
    replica = {"time", "tier", "status", "reason", "detail"}  # `r` is a refusal too
    assert set(re.findall(r"\br\.(\w+)", script)) <= names(ReplicaState) | replica
    assert set(re.findall(r"\bs\.(\w+)", script)) <= names(FleetSample)
    assert "h.samples" in script
    assert names(FleetHistory) == {"samples"}
