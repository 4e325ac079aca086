"""What `make clients-test` writes: its table, and that every client has its script."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trimode_lab.clients.environment import CLIENTS, SCRIPTS
from trimode_lab.clients.report import BEGIN, END, Check, Outcome, merged, page, table

ROOT = Path(__file__).parents[2]
GOOD = Outcome("LiteLLM", {"litellm": "1.2"}, [Check("chat", True), Check("stream", True)], "2026-11-29")
BAD = Outcome("AIPerf", {}, [Check("chat", True), Check("tools", False, "a|b\n/home/me/x/y.py <z>")], "2026-11-28")


def test_a_row_says_what_works_and_what_does_not() -> None:
    rows = table([GOOD, BAD]).splitlines()[2:]
    assert rows[0] == "| LiteLLM | litellm 1.2 | chat, stream | - | 2026-11-29 |"
    assert rows[1] == "| AIPerf |  | chat | tools: a/b .../y.py &lt;z> | 2026-11-28 |"


def test_long_words_are_cut() -> None:
    outcome = Outcome("a", {}, [Check("x", False, "w" * 1000)], "2026-11-29")
    assert len(table([outcome])) < 500


@pytest.mark.parametrize(
    ("before", "now", "names"),
    [
        ([], [GOOD], ["LiteLLM"]),
        ([GOOD], [BAD], ["AIPerf", "LiteLLM"]),
        ([BAD, Outcome("gone", {}, [], "")], [GOOD], ["AIPerf", "LiteLLM"]),
    ],
)
def test_those_not_tried_now_keep_their_rows(before: list[Outcome], now: list[Outcome], names: list[str]) -> None:
    assert [outcome.client for outcome in merged(before, now, ["AIPerf", "LiteLLM"])] == names


def test_the_latest_counts() -> None:
    newer = Outcome("LiteLLM", {"litellm": "1.3"}, [], "2026-12-01")
    assert merged([GOOD], [newer], ["LiteLLM"]) == [newer]


def test_only_what_is_between_the_marks_is_written() -> None:
    made = page(f"before\n{BEGIN}\nold\n{END}\nafter\n", [GOOD])
    assert made.startswith("before\n")
    assert made.endswith("after\n")
    assert "old" not in made
    assert page(made, [GOOD]) == made
    with pytest.raises(ValueError, match="lacks"):
        page("nothing", [GOOD])


def test_outcomes_survive_their_file() -> None:
    assert Outcome.of(json.loads(json.dumps(BAD.stored()))) == BAD


def test_the_page_shows_what_the_file_has() -> None:
    text = (ROOT / "docs" / "clients.md").read_text()
    stored = [Outcome.of(each) for each in json.loads((ROOT / "docs" / "clients.json").read_text())]
    assert page(text, stored) == text
    assert {outcome.client for outcome in stored} <= {client.name for client in CLIENTS}


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_every_client_has_a_script(client: object) -> None:
    file = SCRIPTS / client.script  # type: ignore[attr-defined]
    compile(file.read_text(), str(file), "exec")
