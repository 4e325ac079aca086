"""From samples to padded token tensors.

Prompts are padded on the left so that all answers of a batch start in the same column; answers are padded on
the right with `<end>`, which is also what the model should write there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random

import torch
from tokenizers import Tokenizer
from torch import Tensor

from trimode_lab.training.tokenizer import ASSISTANT, BOS, CHAT_TEMPLATE, END, PAD, SPECIAL, SYSTEM, USER
from trimode_tools.tasks import Sample, ToolSample, tool_stream
from trimode_workers.text.template import ChatTemplate

AnySample = Sample | ToolSample
_SYSTEM_TEXTS = ("you are a helpful assistant.", "You are trimode.", "answer as briefly as you can.")
_SYSTEM_SHARE = 0.06
_TEMPLATE = ChatTemplate(CHAT_TEMPLATE, {"bos_token": SPECIAL[BOS]})
_TAIL = 8
"""Columns behind the longest answer, so that long rows too learn what a block looks like after the end."""


@dataclass(frozen=True)
class Row:
    """Token ids of one sample: the prompt up to and with `<asst>`, and the answer with its `<end>`."""

    prompt: list[int]
    answer: list[int]


@dataclass(frozen=True)
class Batch:
    """tokens `[b, P + A]` (prompts right-aligned in P columns), prompt_lengths `[b]`, answer_lengths `[b]`."""

    tokens: Tensor
    prompt_columns: int
    prompt_lengths: Tensor
    answer_lengths: Tensor

    @property
    def first(self) -> int:
        """Column of the last prompt token: known, predicts the answer's first, and starts its first block."""
        return self.prompt_columns - 1

    @property
    def blocks(self) -> Tensor:
        """`[b, 1 + A]`: the last prompt token and the answers, `<end>` behind each; what blocks are cut from."""
        return self.tokens[:, self.first :]


def encode(tokenizer: Tokenizer, sample: Sample, rng: Random | None = None, earlier: Sample | None = None) -> Row:
    """Chat form of a sample; with `rng` a system text now and then, with `earlier` a turn before it."""

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return found

    prompt = [BOS]
    if rng is not None and rng.random() < _SYSTEM_SHARE:
        prompt += [SYSTEM, *ids(rng.choice(_SYSTEM_TEXTS))]
    if earlier is not None:
        prompt += [USER, *ids(earlier.prompt), ASSISTANT, *ids(earlier.answer), END]
    prompt += [USER, *ids(sample.prompt), ASSISTANT]
    return Row(prompt, [*ids(sample.answer), END])


def encode_with_tools(tokenizer: Tokenizer, sample: ToolSample, rng: Random | None = None) -> Row:
    """A conversation with tools as the model's own template writes it; with `rng` a system text now and then."""
    messages = list(sample.messages)
    if rng is not None and rng.random() < _SYSTEM_SHARE:
        messages = [{"role": "system", "content": rng.choice(_SYSTEM_TEXTS)}, *messages]
    prompt = tokenizer.encode(_TEMPLATE.render(messages, sample.tools), add_special_tokens=False).ids
    return Row(prompt, [*tokenizer.encode(sample.answer, add_special_tokens=False).ids, END])


def encode_any(tokenizer: Tokenizer, sample: AnySample) -> Row:
    """Either kind, as it is asked when marks are given."""
    return encode_with_tools(tokenizer, sample) if isinstance(sample, ToolSample) else encode(tokenizer, sample)


def draw_tool_rows(tokenizer: Tokenizer, rng: Random, count: int) -> list[Row]:
    """`count` rows of the tasks with tools."""
    samples = islice(tool_stream(rng, held_out=False), count)
    return [encode_with_tools(tokenizer, sample, rng) for sample in samples]


def draw_rows(tokenizer: Tokenizer, samples: Iterator[Sample], rng: Random, count: int, max_tokens: int) -> list[Row]:
    """`count` rows of at most `max_tokens` prompt and answer tokens; a few follow an earlier turn."""
    rows: list[Row] = []
    while len(rows) < count:
        sample, *before = islice(samples, 2 if rng.random() < 0.05 else 1)
        row = encode(tokenizer, sample, rng, before[0] if before else None)
        if len(row.prompt) + len(row.answer) <= max_tokens:
            rows.append(row)
    return rows


def split_by_length(rows: list[Row], size: int) -> list[list[Row]]:
    """Groups of `size` rows of similar length, so that little is padding.

    By the answer among prompts of about one length: by the sum of both, long prompts with short answers met the
    opposite, and of groups of 8 almost half was padding.
    """
    ordered = sorted(rows, key=lambda row: (len(row.prompt) // 80, len(row.answer)))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def collate(rows: list[Row], tail: int = _TAIL) -> Batch:
    """Pad rows into one batch."""
    columns = max(len(row.prompt) for row in rows)
    width = columns + max(len(row.answer) for row in rows) + tail
    tokens = torch.full((len(rows), width), END)
    tokens[:, :columns] = PAD
    for index, row in enumerate(rows):
        tokens[index, columns - len(row.prompt) : columns] = torch.tensor(row.prompt)
        tokens[index, columns : columns + len(row.answer)] = torch.tensor(row.answer)
    return Batch(
        tokens,
        columns,
        torch.tensor([len(row.prompt) for row in rows]),
        torch.tensor([len(row.answer) for row in rows]),
    )
