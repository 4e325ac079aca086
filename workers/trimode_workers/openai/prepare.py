"""A valid request and what this replica offers, made into what the engine is asked for.

Belongs here: limits, pins, tiers and defaults of one request. Pure: ids and randomness are arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from trimode_api.errors import ApiError
from trimode_api.modes import Mode, OperatingPoint
from trimode_api.openai import ChatRequest, CompletionRequest, GenerationRequest
from trimode_api.openai_parts import SCHEMA_PATH, TrimodeOptions
from trimode_api.wire import TIER_HEADER, TierPolicy
from trimode_workers.engine.messages import Grammar, Sampling, Submit
from trimode_workers.grammar.compiled import problem
from trimode_workers.openai.defaults import SamplingDefaults
from trimode_workers.text.errors import TemplateError
from trimode_workers.text.tokenizer import TextModel

ANY_OBJECT = '{"type":"object"}'
_SEEDS = 2**63


@dataclass(frozen=True, slots=True)
class Offer:
    """What a replica can do at the moment. `max_context_tokens` bounds prompt plus answer. `no_grammar`: why no answer
    can follow a grammar, empty where one can."""

    model: str
    max_context_tokens: int
    points: tuple[OperatingPoint, ...]
    tiers: tuple[TierPolicy, ...]
    defaults: SamplingDefaults
    no_grammar: str = ""


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells one request from another: its id in the engine, its tier's name ('' for none), its random seed."""

    request_id: str
    tier: str
    seed: int


def prepare(request: GenerationRequest, text: TextModel, offer: Offer, identity: Identity) -> Submit:
    """The engine's request. ApiError 404 for another model, 400 for what cannot be done, naming field and value."""
    if request.model != offer.model:
        raise ApiError(
            404,
            f"model: {request.model!r} is not served here; {offer.model!r} is",
            code="model_not_found",
            param="model",
        )
    pin = _pin(request, offer.points)
    grammar = _grammar(request, offer, pin)
    tier = _tier(identity.tier, offer.tiers)
    tokens = _prompt(request, text)
    return Submit(
        request_id=identity.request_id,
        tokens=tokens,
        max_new_tokens=_room(len(tokens), request.token_limit, offer.max_context_tokens, _field(request)),
        sampling=_sampling(request, offer.defaults, identity.seed),
        pin=None if pin is None else str(pin),
        lossy_ok=request.lossy_ok,
        tier=identity.tier,
        tier_tpot_s=0.0 if tier is None else tier.tpot_milliseconds / 1000,
        priority=0 if tier is None else tier.priority,
        ignore_eos=request.ignore_eos,
        grammar=grammar,
        workload="" if request.trimode is None else request.trimode.workload or "",
    )


def choices_of(submit: Submit, count: int) -> list[Submit]:
    """One request for each choice, with a seed of its own."""
    return [submit, *(_choice(submit, index) for index in range(1, count))]


def _choice(submit: Submit, index: int) -> Submit:
    sampling = msgspec.structs.replace(submit.sampling, seed=(submit.sampling.seed + index) % _SEEDS)
    return msgspec.structs.replace(submit, request_id=f"{submit.request_id}-{index}", sampling=sampling)


def _field(request: GenerationRequest) -> str:
    return "messages" if isinstance(request, ChatRequest) else "prompt"


def _prompt(request: GenerationRequest, text: TextModel) -> list[int]:
    if isinstance(request, ChatRequest):
        try:
            tokens = text.chat([{"role": m.role, "content": m.content} for m in request.messages])
        except TemplateError as exc:
            raise ApiError(400, f"messages: {exc}", code="invalid_value", param="messages") from exc
    else:
        assert isinstance(request, CompletionRequest)
        tokens = _plain(request.prompt, text)
    if not tokens:
        raise ApiError(400, "prompt: must not be empty", code="invalid_value", param=_field(request))
    return tokens


def _plain(prompt: str | tuple[int, ...], text: TextModel) -> list[int]:
    if isinstance(prompt, str):
        return text.encode(prompt)
    beyond = [token for token in prompt if token >= text.vocabulary]
    if beyond:
        message = f"prompt: token ids must be below {text.vocabulary}, got {beyond[0]}"
        raise ApiError(400, message, code="invalid_value", param="prompt")
    return list(prompt)


def _room(prompt_tokens: int, wanted: int | None, context: int, field: str) -> int:
    """Tokens the answer may have: what is wanted, within what the context leaves."""
    left = context - prompt_tokens
    if left < 1:
        message = (
            f"{field}: the prompt has {prompt_tokens} tokens; this model takes {context} with the answer, "
            f"so at most {context - 1} are allowed"
        )
        raise ApiError(400, message, code="context_length_exceeded", param=field)
    return left if wanted is None else min(wanted, left)


def _sampling(request: GenerationRequest, defaults: SamplingDefaults, seed: int) -> Sampling:
    return Sampling(
        temperature=defaults.temperature if request.temperature is None else request.temperature,
        top_p=defaults.top_p if request.top_p is None else request.top_p,
        seed=(seed if request.seed is None else request.seed) % _SEEDS,
    )


def _pin(request: GenerationRequest, points: Sequence[OperatingPoint]) -> OperatingPoint | None:
    """The point asked for: the pool's only or largest one of the mode where no block length is given."""
    wanted = request.trimode
    if wanted is None or wanted.mode is None:
        return None
    if wanted.mode is Mode.DIFFUSION and not request.lossy_ok:
        message = "trimode.mode: Diffusion is lossy, but quality is 'lossless'; send 'lossy-ok' or leave it out"
        raise ApiError(400, message, code="invalid_value", param="trimode.mode")
    matching = [point for point in points if wanted.matches(point)]
    if not matching:
        allowed = ", ".join(map(str, points))
        message = f"trimode: {_words(wanted)} is not allowed in this pool; its points are {allowed}"
        raise ApiError(400, message, code="mode_not_allowed", param="trimode")
    return max(matching, key=lambda point: point.block_length)


def _grammar(request: GenerationRequest, offer: Offer, pin: OperatingPoint | None) -> Grammar | None:
    """The schema that the answer must follow, found possible; None where it is free."""
    wanted = request.response_format if isinstance(request, ChatRequest) else None
    if wanted is None or wanted.type == "text":
        return None
    if offer.no_grammar:
        message = f"response_format: {wanted.type} is not possible in this pool: {offer.no_grammar}"
        raise ApiError(400, message, code="not_supported", param="response_format")
    if request.ignore_eos:
        message = "ignore_eos: an answer in a response_format has an end; leave ignore_eos out"
        raise ApiError(400, message, code="invalid_value", param="ignore_eos")
    if pin is not None and pin.mode is Mode.DIFFUSION:
        message = (
            "trimode.mode: Diffusion fills tokens out of order and cannot follow a response_format; "
            "leave the mode out, or send AR or SelfSpeculation"
        )
        raise ApiError(400, message, code="invalid_value", param="trimode.mode")
    asked = wanted.json_schema
    if asked is None:
        return Grammar(ANY_OBJECT)
    grammar = Grammar(msgspec.json.encode(asked.definition).decode(), lenient=not asked.strict)
    if found := problem(grammar):
        message = f"{SCHEMA_PATH}: {found}"
        raise ApiError(400, message, code="invalid_value", param=SCHEMA_PATH)
    return grammar


def _words(wanted: TrimodeOptions) -> str:
    assert wanted.mode is not None
    parts = [wanted.mode.value]
    if wanted.block_length is not None:
        parts.append(f"blockLength {wanted.block_length}")
    if wanted.threshold is not None:
        parts.append(f"threshold {wanted.threshold:g}")
    return " with ".join([parts[0], " and ".join(parts[1:])]) if parts[1:] else parts[0]


def _tier(name: str, tiers: Sequence[TierPolicy]) -> TierPolicy | None:
    if not name:
        return None
    for tier in tiers:
        if tier.name == name:
            return tier
    message = f"{TIER_HEADER}: no tier {name!r}; allowed are {[tier.name for tier in tiers]}"
    raise ApiError(400, message, code="unknown_tier", param=TIER_HEADER)
