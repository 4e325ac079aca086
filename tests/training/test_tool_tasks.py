"""Tasks with tools: one right answer each, apart from the training stream, in the form that the model is served in."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from random import Random

import jsonschema
from tokenizers import Tokenizer

import trimode_workers
from trimode_api.serving import ToolFormat
from trimode_lab.training.batches import draw_tool_rows, encode_with_tools
from trimode_lab.training.tokenizer import END
from trimode_tools.tasks import TOOL_TASKS, held_out_tool_set, is_held_out, tool_stream
from trimode_tools.tasks.tool_calls import ToolSample
from trimode_workers.text.tokenizer import load_text_model
from trimode_workers.text.tool_formats import FORMATS
from trimode_workers.text.tool_reader import ToolReader

TINY = Path(trimode_workers.__path__[0], "tiny")
TEXT = load_text_model(TINY)
SAMPLES = list(islice(tool_stream(Random(3), held_out=False), 300))


def calls_in(sample: ToolSample) -> list[tuple[str, str]]:
    assert TEXT.calls is FORMATS[ToolFormat.HERMES]
    reader = ToolReader(TEXT.calls, {tool["function"]["name"] for tool in sample.tools})
    news = reader.feed(sample.answer)
    assert reader.finish().calls == ()
    found: dict[int, tuple[str, str]] = {}
    for each in news.calls:
        name, arguments = found.get(each.index, ("", ""))
        found[each.index] = (name + each.name, arguments + each.arguments)
    assert not found or not news.text
    return list(found.values())


def test_calls_are_of_tools_that_are_there_and_follow_their_schemas() -> None:
    counts = set()
    for sample in SAMPLES:
        schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in sample.tools}
        calls = calls_in(sample)
        assert bool(calls) == (sample.task == "tool_call"), sample
        for name, arguments in calls:
            jsonschema.validate(json.loads(arguments), schemas[name])
        counts.add(len(calls))
    assert counts == {0, 1, 2}
    assert {sample.task for sample in SAMPLES} == set(TOOL_TASKS)


def test_a_seed_repeats_and_held_out_prompts_are_never_trained_on() -> None:
    assert list(islice(tool_stream(Random(3), held_out=False), 300)) == SAMPLES
    assert not any(is_held_out(sample.prompt) for sample in SAMPLES)
    held_out = held_out_tool_set(5)
    assert held_out == held_out_tool_set(5)
    assert [sample.task for sample in held_out] == [task for task in sorted(TOOL_TASKS) for _ in range(5)]
    assert all(is_held_out(sample.prompt) for sample in held_out)


def test_rows_are_prompts_as_the_served_model_gets_them() -> None:
    tokenizer = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    for sample in SAMPLES[:40]:
        row = encode_with_tools(tokenizer, sample)
        assert row.prompt == TEXT.chat(sample.messages, sample.tools)
        assert row.answer[-1] == END
        assert tokenizer.decode(row.answer) == sample.answer
    rows = draw_tool_rows(tokenizer, Random(1), 200)
    assert max(len(row.prompt) + len(row.answer) for row in rows) < 512
    assert len({row.prompt[1] for row in rows}) == 1  # a system turn, which holds the tools
