"""Pure: may this request run here at all? What merely has to wait is planning, not refusal."""

from __future__ import annotations

import math
from collections.abc import Collection
from collections.abc import Set as AbstractSet

from trimode_api.modes import OperatingPoint
from trimode_workers.engine.messages import Adjustments, Submit
from trimode_workers.engine.points import Points, lossy
from trimode_workers.errors import RequestRefused


def check(
    request: Submit, points: Points, context: int, vocabulary: int, ends: AbstractSet[int]
) -> OperatingPoint | None:
    """The request's pin, parsed. Raises RequestRefused. `context`: longest prompt and output together, in tokens;
    `ends`: the model's end-of-sequence ids."""
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
    drawn = request.sampling
    for name, value, fits, allowed in (
        ("max_tokens", request.max_new_tokens, request.max_new_tokens >= 1, "1 or more"),
        ("temperature", drawn.temperature, 0 <= drawn.temperature < math.inf, "0 or more"),
        ("top_p", drawn.top_p, 0 < drawn.top_p <= 1, "above 0 and at most 1"),
        ("top_k", drawn.top_k, drawn.top_k >= 0, "0 (all) or more"),
        ("min_p", drawn.min_p, 0 <= drawn.min_p <= 1, "from 0 to 1"),
    ):
        if not fits:
            raise RequestRefused(f"invalid_{name}", f"{name} is {value}, allowed is {allowed}", name)
    _check_ids("stop_token_ids", request.stop_ids, vocabulary)
    if request.adjustments is not None:
        _check_adjustments(request.adjustments, vocabulary, ends | set(request.stop_ids))
    if request.grammar is not None and request.ignore_eos:
        raise RequestRefused(
            "invalid_ignore_eos", "ignore_eos is true, but an answer in a response_format has an end", "ignore_eos"
        )
    return _check_mode(request, points)


def _check_adjustments(wanted: Adjustments, vocabulary: int, ends: AbstractSet[int]) -> None:
    _check_ids("logit_bias", wanted.bias, vocabulary)
    _check_ids("allowed_token_ids", wanted.allowed or (), vocabulary)
    _check_ids("bad_words", [token for word in wanted.banned for token in word], vocabulary)
    barred = {word[-1] for word in wanted.banned} | (ends if wanted.min_tokens else set())
    spent = len(barred) >= vocabulary if wanted.allowed is None else barred.issuperset(wanted.allowed)
    if spent:  # a distribution without mass would draw an id that does not exist
        field = "bad_words" if wanted.allowed is None else "allowed_token_ids"
        raise RequestRefused("nothing_allowed", f"{field}: no token is left to choose from", field)
    if not 0.01 <= wanted.repetition <= 100:
        words = f"repetition_penalty is {wanted.repetition}, allowed is from 0.01 to 100"
        raise RequestRefused("invalid_repetition_penalty", words, "repetition_penalty")


def _check_ids(field: str, ids: Collection[int], vocabulary: int) -> None:
    if ids and not 0 <= min(ids) <= max(ids) < vocabulary:
        raise RequestRefused("invalid_token", f"{field}: token ids must be from 0 to {vocabulary - 1}", field)


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
    # Penalties and grammars at a place go by the tokens before it, which diffusion may not have chosen yet.
    if lossy(pin) and request.ordered:
        raise RequestRefused(
            "order_needed",
            f"pinned to {pin}, which fills tokens out of order; a response_format, penalties, biases, min_tokens "
            "and logprobs need a lossless point",
            "trimode.mode",
        )
    return pin
