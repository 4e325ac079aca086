"""`python -m trimode_lab.confidence.record`: what the tiny model drafts, how sure it is of it, and what is accepted.

Behind every token of its answers to the task suite, for each block length: the probability of each drafted token, and
how many are accepted. Greedy, one thread. `--noise` makes a worse drafter: normal noise of that deviation on its
logits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from collections.abc import Sequence as Seq
from pathlib import Path

import torch
from torch import Tensor

from trimode_lab.confidence.drafts import Answer, Draft, write
from trimode_lab.engine.paired import TINY
from trimode_tools.engines import complete
from trimode_tools.tasks.suite import held_out_set
from trimode_workers.engine.attention import Attention
from trimode_workers.engine.engine import Engine, EngineSettings
from trimode_workers.engine.layouts import make_cache
from trimode_workers.engine.messages import Configure
from trimode_workers.engine.primitive import Primitive
from trimode_workers.model.decoder import Network
from trimode_workers.model.loading import load_decoder
from trimode_workers.text.tokenizer import load_text_model

BLOCKS = (4, 8, 16, 32)
ROWS = 64
DIGITS = 5
"""Of a probability; what is above 1 - 1e-5 is all alike."""


def record(
    network: Network, prompts: Seq[tuple[str, list[int]]], most: int, noise: float = 0.0, blocks: Seq[int] = BLOCKS
) -> list[Answer]:
    """The greedy answers of at most `most` tokens to `prompts` (task, tokens), with what is drafted at each place."""
    context = max(len(prompt) for _, prompt in prompts) + most
    engine = Engine(network, EngineSettings(ROWS, context, shared_tokens=0), Configure(points=["AR"], fallback="AR"))
    done = complete(engine, [prompt for _, prompt in prompts], "AR", most)
    # Which of them ended an answer is not told, and any does.
    ends = network.config.eos_token_ids
    answers = [one.ids + [ends[0]] * one.ended for one in done]
    chance = torch.Generator().manual_seed(0)

    def worse(logits: Tensor) -> Tensor:
        return logits + noise * torch.randn(logits.shape, generator=chance) if noise else logits

    found: list[Answer] = []
    for first in range(0, len(prompts), ROWS):
        part = slice(first, first + ROWS)
        drafts = _drafts(network, [prompt for _, prompt in prompts[part]], answers[part], worse, blocks)
        found += [
            Answer(task, len(answer), mine)
            for (task, _), answer, mine in zip(prompts[part], answers[part], drafts, strict=True)
        ]
    return found


@torch.inference_mode()
def _drafts(
    network: Network,
    prompts: Seq[list[int]],
    answers: Seq[list[int]],
    worse: Callable[[Tensor], Tensor],
    blocks: Seq[int],
) -> list[dict[int, list[Draft]]]:
    """By prompt and block length, the draft behind each place of its answer."""
    known = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    cache, _ = make_cache(network.config, EngineSettings(len(known), max(map(len, known))), network.like)
    primitive, rows = Primitive(network, cache), [cache.acquire() for _ in known]
    primitive.advance(known, rows, [0] * len(known))
    found: list[dict[int, list[Draft]]] = [{block: [] for block in blocks} for _ in known]
    # From the last place to the first: what a draft leaves behind its prefix is then of no use to anybody.
    for back in range(1, max(map(len, answers)) + 1):
        part = [row for row in rows if back <= len(answers[row])]
        cached = [len(known[row]) - back - 1 for row in part]
        for block in blocks:
            blank = [primitive.mask_token_id] * (block - 1)
            tokens = primitive.tensor([[known[row][at], *blank] for row, at in zip(part, cached, strict=True)])
            window = primitive.window(part, cached, block)
            logits = worse(primitive.forward(tokens, window, Attention.BLOCK, first=1, drafting=True))
            sure, drafted = torch.softmax(logits, -1).max(-1)
            for row, chances, guess in zip(part, sure.tolist(), drafted.tolist(), strict=True):
                found[row][block].append(_draft(chances, guess, known[row][-back:], network.config.eos_token_ids))
    return [{block: places[::-1] for block, places in each.items()} for each in found]


def _draft(chances: Seq[float], guess: Seq[int], answer: Seq[int], ends: Seq[int]) -> Draft:
    """`answer`: what really follows."""
    matched = next((i for i, (a, b) in enumerate(zip(guess, answer, strict=False)) if a != b), None)
    end = next((i + 1 for i, token in enumerate(guess) if token in ends), len(guess))
    kept = min(len(guess), len(answer)) if matched is None else matched
    return Draft(tuple(round(chance, DIGITS) for chance in chances[:end]), kept)


def main() -> None:
    parser = argparse.ArgumentParser(description="Record what is drafted, how surely, and what of it is accepted.")
    parser.add_argument("--model", type=Path, default=TINY)
    parser.add_argument("--out", type=Path, required=True, help="a file of JSON lines")
    parser.add_argument("--per-task", type=int, default=16, help="held-out prompts of each task")
    parser.add_argument("--tokens", type=int, default=160, help="of each answer at most")
    parser.add_argument("--noise", type=float, default=0.0, help="standard deviation on the drafter's logits")
    args = parser.parse_args()
    torch.set_num_threads(1)
    network, text = load_decoder(args.model, torch.float32)[0].fused(), load_text_model(args.model)
    samples = held_out_set(args.per_task)
    prompts = [(sample.task, text.chat([{"role": "user", "content": sample.prompt}])) for sample in samples]
    answers = record(network, prompts, args.tokens, args.noise)
    write(answers, args.out)
    sys.stdout.write(f"{len(answers)} answers, {sum(answer.tokens for answer in answers)} places\n")


if __name__ == "__main__":
    main()
