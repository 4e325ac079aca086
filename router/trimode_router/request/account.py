"""What an answer's end says of its cost: GPU seconds by operating point, prompt tokens. [pure]"""

from __future__ import annotations

import re

import msgspec

from trimode_api.modes import Mode

MODES = {"A": Mode.AR, "S": Mode.SELF_SPECULATION, "Q": Mode.QUADRATIC, "D": Mode.DIFFUSION}
"""By the first letter of an operating point."""
_BUSY = b'"gpuSeconds":'
_PROMPT = b'"prompt_tokens"'
_COUNT = re.compile(_PROMPT + rb"\s*:\s*(\d{1,12})")
_SECONDS = msgspec.json.Decoder(dict[str, float])


def busy_of(tail: bytes) -> dict[str, float]:
    """Seconds of the engine that the answer has cost, by operating point and `prompt`; nothing where it says none.
    Inside a string its quotes would be escaped: no text can forge it."""
    at = tail.rfind(_BUSY)
    if at < 0:
        return {}
    try:
        return _SECONDS.decode(tail[at + len(_BUSY) : tail.find(b"}", at) + 1])
    except msgspec.DecodeError:  # another server's field of that name
        return {}


def prompt_tokens_of(tail: bytes) -> int:
    """Tokens of the prompt by the usage at an answer's end; 0 where there is none."""
    at = tail.rfind(_PROMPT)
    found = _COUNT.match(tail, at) if at >= 0 else None
    return int(found[1]) if found else 0
