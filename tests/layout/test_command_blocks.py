"""Commands in the docs: each is run by the cluster tests, or says what it needs."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from trimode_e2e.pages import NEEDS, Block, blocks
from trimode_e2e.shell import ENDED, TIMED_OUT, Shell

ROOT = Path(__file__).parents[2]
PAGES = ("install.md", "quickstart-kind.md", "upgrade.md", "runbook.md", "gateways.md", "platform.md", "router.md")
"""Those that `tests/cluster/real/test_docs.py` runs, on paper `test_cluster_gateway_docs.py` and
`test_cluster_platform_docs.py`, and without a cluster `tests/cli/test_up_docs.py` and `test_up_agent.py`."""
BLOCKS = [block for page in PAGES for block in blocks(ROOT / "docs" / page)]
ENDLESS = re.compile(r"--watch\b|\bport-forward\b(?!.*&$)", re.MULTILINE)
PLACEHOLDER = re.compile(r"(?<![\w$\"{/-])[A-Z][A-Z_]{2,}(?![\w=-])")
"""A word in capitals that is no variable: what a person would have to replace."""


@pytest.mark.parametrize("block", BLOCKS, ids=[block.place for block in BLOCKS])
def test_a_block_runs_as_written_or_says_what_it_needs(block: Block) -> None:
    assert set(block.needs) <= set(NEEDS), f"one of {sorted(NEEDS)} is allowed"
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    code = re.sub(r"\s#.*", "", block.text)
    assert not ENDLESS.findall(code), "it never ends"
    assert not PLACEHOLDER.findall(code), "set a variable in a block above"


@pytest.mark.parametrize("page", PAGES)
def test_variables_are_set_in_the_same_page(page: str) -> None:
    known: set[str] = set()
    for block in blocks(ROOT / "docs" / page):
        known |= set(re.findall(r"^(?:export )?(\w+)=", block.text, re.MULTILINE))
        assert set(re.findall(r"\$\{?([A-Za-z_]\w*)", block.text)) <= known, block.place


def test_the_routers_page_is_run_by_its_headings() -> None:
    """A block below another heading is in neither of the two tests."""
    headings = {block.heading for block in blocks(ROOT / "docs" / "router.md") if not block.needs}
    assert headings == {"Answers in JSON", "Tools", "Responses", "Access", "Traces and logs", "Who used what"}


def test_most_blocks_need_nothing() -> None:
    """A reader that finds no block would call everything well."""
    assert len([block for block in BLOCKS if not block.needs]) >= 15
    assert all(blocks(ROOT / "docs" / page) for page in PAGES)


def test_comments_headings_and_languages_are_read(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One\n```\na\nb\n```\n<!-- needs: docker, kind -->\n```sh\nc\n```\n```yaml\nd: 1\n```\n"
        "## Two\n<!-- refused: no such -->\n```bash\ne\n```\n"
    )
    assert blocks(page) == [
        Block("page.md", 3, "One", "a\nb\n"),
        Block("page.md", 8, "One", "c\n", ("docker", "kind")),
        Block("page.md", 16, "Two", "e\n", (), "no such"),
    ]
    page.write_text("<!-- needs: docker -->\ntext\n```\na\n```\n")
    with pytest.raises(ValueError, match=r"page\.md:1: a comment on commands"):
        blocks(page)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    running = Shell.start(tmp_path, tmp_path, {"PATH": "/usr/bin:/bin"})
    yield running
    running.stop()


def test_variables_and_jobs_stay_from_block_to_block(shell: Shell) -> None:
    assert shell.run("A=5\nsleep 60 &\n") == (0, "")
    assert shell.run('echo "A is $A"\nkill %1\n') == (0, "A is 5\n")


@pytest.mark.parametrize("text", ["false\necho on\n", "false | cat\necho on\n", "X=$(false)\necho on\n"])
def test_a_block_ends_with_its_first_failure(shell: Shell, text: str) -> None:
    assert shell.run(text) == (1, "")
    assert shell.run("if false; then echo a; fi\nfalse || echo b\n") == (0, "b\n")


def test_a_block_reads_nothing_of_the_next_one(shell: Shell) -> None:
    assert shell.run("cat\n") == (0, "")
    assert shell.run("echo still here\n") == (0, "still here\n")


def test_a_block_that_ends_the_shell_or_takes_too_long_is_told(tmp_path: Path) -> None:
    shell = Shell.start(tmp_path, tmp_path, {"PATH": "/usr/bin:/bin"})
    assert shell.run("echo before\nexit 3\n") == (ENDED, "before\n")
    assert shell.run("echo more\n") == (ENDED, "")
    shell.stop()
    slow = Shell.start(tmp_path, tmp_path, {"PATH": "/usr/bin:/bin"})
    slow.count = 10  # files of its own
    assert slow.run("sleep 60\n", timeout_s=0.5) == (TIMED_OUT, "")
