"""What an answer's end says of it: its tokens, what decoded it, what that has cost, or why it is an error. [pure]

Every answer comes through here, so its JSON is not parsed: fields are looked for from the end on. Inside
a string their quotes would be escaped: no text can forge them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from trimode_api.modes import Mode

MODES = {"A": Mode.AR, "S": Mode.SELF_SPECULATION, "Q": Mode.QUADRATIC, "D": Mode.DIFFUSION}
"""By the first letter of an operating point."""
MIXED = "Mixed"
"""The mode of an answer that several have decoded."""
_TOKENS, _PROMPT = b'"completion_tokens"', b'"prompt_tokens"'
_BOTH = re.compile(rb'"prompt_tokens"\s*:\s*(\d{1,12})\s*,\s*"completion_tokens"\s*:\s*(\d{1,12})')
"""As OpenAI and our engine write them, so that one look finds both; vLLM has the total in between."""
_COUNT = re.compile(rb'"[a-z_]+"\s*:\s*(\d{1,12})')
_CYCLES = re.compile(rb'"cycles"\s*:\s*\{([^{}]*)\}')
_POINT = re.compile(rb'"(AR|[SQD]\d+[@.\d]*)"')
_WHY = re.compile(rb'"(code|type)"\s*:\s*"([A-Za-z0-9_.-]{1,64})"')
_BUSY = b'"gpuSeconds":'
_SECONDS = msgspec.json.Decoder(dict[str, float])


class Account(NamedTuple):
    """`tokens` None, `prompt_tokens` 0 and `mode` '' where it does not say. `busy`: seconds of the engine that it has
    cost, by operating point and `prompt`."""

    tokens: int | None
    prompt_tokens: int
    mode: str
    busy: dict[str, float]


def account_of(tail: bytes) -> Account:
    """The account at the end of an answer, of which `tail` has the last event at least."""
    # The last ones: with `continuous_usage_stats` every chunk has a usage.
    usage = prompt = tail.rfind(_PROMPT)
    both = _BOTH.match(tail, prompt) if prompt >= 0 else None
    if both is None:
        usage = tail.rfind(_TOKENS)
    tokens, prompt_tokens = (int(both[2]), int(both[1])) if both else (_count(tail, usage), _count(tail, prompt) or 0)
    # Ours follows the usage. Answers of other servers have none: without the bound each was searched to its beginning.
    at = tail.rfind(b'"cycles"', max(usage, 0))
    cycles = _CYCLES.match(tail, at) if at >= 0 else None
    if cycles is None:
        return Account(tokens, prompt_tokens, "", {})
    modes = {MODES[point[:1].decode()] for point in _POINT.findall(cycles[1])}
    mode = MIXED if len(modes) > 1 else modes.pop().value if modes else ""
    at = tail.find(_BUSY, at)
    try:
        busy = _SECONDS.decode(tail[at + len(_BUSY) : tail.find(b"}", at) + 1]) if at >= 0 else {}
    except msgspec.DecodeError:  # another server's field of that name
        busy = {}
    return Account(tokens, prompt_tokens, mode, busy)


def reason_of(tail: bytes) -> str:
    """Why a server refused: its error's `code`, where it has none of words its `type`, else ''. The message is not
    read: it may repeat what the client sent."""
    said = dict(_WHY.findall(tail))
    return bytes(said.get(b"code") or said.get(b"type") or b"").decode()


def _count(tail: bytes, at: int) -> int | None:
    found = _COUNT.match(tail, at) if at >= 0 else None
    return int(found[1]) if found else None
