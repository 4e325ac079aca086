"""Pure: may this request run here at all?

Belongs here: the checks at the engine's door, each ending in a refusal that a client can act on. What merely has to
wait is planning, not refusal.
"""

from __future__ import annotations

import math

from trimode_api.modes import OperatingPoint
from trimode_workers.engine.messages import Submit
from trimode_workers.engine.points import Points, lossy
from trimode_workers.errors import RequestRefused


def check(request: Submit, points: Points, context: int, vocabulary: int) -> OperatingPoint | None:
    """The request's pin, parsed. Raises RequestRefused. `context`: longest prompt and output together, in tokens."""
    count = len(request.tokens)
    if count < 1:
        raise RequestRefused("empty_prompt", "the prompt has no tokens, allowed is at least one", "prompt")
    if count >= context:
        raise RequestRefused(
            "context_length_exceeded",
            f"the prompt has {count} tokens, allowed are at most {context - 1} (context {context}, one to answer)",
            "prompt",
        )
    if min(request.tokens) < 0 or max(request.tokens) >= vocabulary:
        raise RequestRefused("invalid_token", f"token ids must be from 0 to {vocabulary - 1}", "prompt")
    if request.max_new_tokens < 1:
        raise RequestRefused(
            "invalid_max_tokens", f"max_tokens is {request.max_new_tokens}, allowed is 1 or more", "max_tokens"
        )
    _check_sampling(request)
    _check_grammar(request)
    return _check_mode(request, points)


def _check_sampling(request: Submit) -> None:
    temperature, top_p = request.sampling.temperature, request.sampling.top_p
    if not (math.isfinite(temperature) and temperature >= 0):
        raise RequestRefused(
            "invalid_temperature", f"temperature is {temperature}, allowed is 0 or more", "temperature"
        )
    if not 0 < top_p <= 1:
        raise RequestRefused("invalid_top_p", f"top_p is {top_p}, allowed is above 0 and at most 1", "top_p")


def _check_grammar(request: Submit) -> None:
    if request.grammar is not None and request.ignore_eos:
        raise RequestRefused(
            "invalid_ignore_eos", "ignore_eos is true, but an answer in a response_format has an end", "ignore_eos"
        )


def _check_mode(request: Submit, points: Points) -> OperatingPoint | None:
    allowed = [str(p) for p in points.every]
    if request.pin is None:
        if not points.lossless and not request.lossy_ok:
            raise RequestRefused(
                "lossless_unavailable", f"only {allowed} run here, which need quality 'lossy-ok'", "quality"
            )
        return None
    try:
        pin = OperatingPoint.parse(request.pin)
    except ValueError as exc:
        raise RequestRefused("unknown_mode", f"the pinned mode: {exc}", "trimode.mode") from exc
    if pin not in points.every:
        raise RequestRefused("mode_not_allowed", f"pinned to {pin}, allowed here is one of {allowed}", "trimode.mode")
    if lossy(pin) and not request.lossy_ok:
        raise RequestRefused("lossless_unavailable", f"pinned to {pin}, which needs quality 'lossy-ok'", "quality")
    if lossy(pin) and request.grammar is not None:
        raise RequestRefused(
            "grammar_needs_order",
            f"pinned to {pin}, which fills tokens out of order; with a response_format allowed is a lossless point",
            "trimode.mode",
        )
    return pin
