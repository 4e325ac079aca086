"""Traces and tables that users bring."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from trimode_local.errors import BadInput
from trimode_tools.simulate.hardware import BUILT_IN, read_acceptance
from trimode_tools.simulate.traces import Arrival, Mix, TraceFormat, as_jobs, read_trace

DATA = Path(__file__).parents[2] / "examples/data"


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_azure() -> None:
    found = read_trace(DATA / "azure_llm_2023_conv.csv", TraceFormat.AZURE)
    assert len(found) == 19_366
    assert found[0] == Arrival(0.0, 374, 44)
    assert found[1].at == pytest.approx(4.314579, abs=1e-5)
    assert 3400 < found[-1].at < 3600


def test_burstgpt_leaves_out_what_failed(tmp_path: Path) -> None:
    path = written(
        tmp_path / "b.csv",
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,0,1087,Conversation log\n"
        "118,GPT-4,417,276,693,API log\n",
    )
    assert read_trace(path, TraceFormat.BURSTGPT) == [Arrival(0.0, 472, 18), Arrival(113.0, 417, 276)]


def test_mooncake(tmp_path: Path) -> None:
    path = written(
        tmp_path / "m.jsonl",
        '{"timestamp": 3000, "input_length": 9, "output_length": 2, "hash_ids": [1]}\n\n'
        '{"timestamp": 1000, "input_length": 7, "output_length": 3}\n',
    )
    assert read_trace(path, TraceFormat.MOONCAKE) == [Arrival(0.0, 7, 3), Arrival(2.0, 9, 2)]


@pytest.mark.parametrize(
    ("form", "text", "complaint"),
    [
        ("azure", "TIMESTAMP,ContextTokens\n", r"t, line 1: column GeneratedTokens is missing; found TIMESTAMP"),
        ("azure", "", r"t, line 1: column TIMESTAMP, ContextTokens, GeneratedTokens is missing; found nothing"),
        ("azure", "TIMESTAMP,ContextTokens,GeneratedTokens\n", "t: holds no request"),
        (
            "azure",
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,1,2\nsoon,1,2\n",
            r"t, line 3: TIMESTAMP is 'soon', must be a time such as",
        ),
        (
            "azure",
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,many,2\n",
            r"t, line 2: ContextTokens is 'many', must be a number of at least 1",
        ),
        ("azure", "TIMESTAMP,ContextTokens,GeneratedTokens\n1,2\n", r"t, line 2: 2 values, must be 3"),
        ("burstgpt", "Timestamp,Model\n", r"column Request tokens, Response tokens is missing"),
        ("mooncake", '{"timestamp": 1}\n', r"t, line 1: input_length is None, must be a number of at least 0"),
        ("mooncake", "{}\nno\n", r"t, line 1: timestamp is None"),
        ("mooncake", "no\n", r"t, line 1: is not JSON"),
        ("mooncake", "[]\n", r"t, line 1: timestamp is None"),
    ],
)
def test_complaints_name_file_and_line(tmp_path: Path, form: str, text: str, complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        read_trace(written(tmp_path / "t", text), TraceFormat(form))


def test_jobs_run_faster_and_are_drawn_by_the_seed() -> None:
    arrivals = [Arrival(float(i), 10, 10) for i in range(2000)]
    found = as_jobs(arrivals, 4.0, Mix(0.3, 2, 3), Random(1))
    assert found[-1].at == 1999 / 4
    assert 0.26 < sum(job.tier == 0 for job in found) / 2000 < 0.34
    assert {job.kind for job in found} == {0, 1, 2}
    assert found == as_jobs(arrivals, 4.0, Mix(0.3, 2, 3), Random(1))
    assert {job.tier for job in as_jobs(arrivals, 1.0, Mix(0.0, 1, 1), Random(1))} == {0}


def test_the_built_in_acceptance_is_the_published_row() -> None:
    assert read_acceptance(DATA / "speed_bench_acceptance.csv", "lora") == BUILT_IN
    with pytest.raises(BadInput, match="has no drafter 'mine'; found native, lora"):
        read_acceptance(DATA / "speed_bench_acceptance.csv", "mine")
