"""A valid request and what this replica offers, made into what the engine is asked for.

Pure: ids and randomness are arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from trimode_api.errors import ApiError, shown
from trimode_api.modes import LOSSY_REFUSED, Mode, OperatingPoint, resolve
from trimode_api.openai import ChatRequest, CompletionRequest, GenerationRequest
from trimode_api.stamp import Stamp
from trimode_api.wire import TIER_HEADER, TierPolicy
from trimode_workers.engine.messages import TOOL_GRAMMAR, Grammar, Sampling, Submit
from trimode_workers.errors import TemplateError
from trimode_workers.openai.adjustments import adjustments
from trimode_workers.openai.defaults import SamplingDefaults
from trimode_workers.openai.grammar import asks_for_form, response_grammar, structured_grammar, tool_grammar
from trimode_workers.text.tokenizer import TextModel

NO_TOOLS = (
    "tools: this model's chat template shows no tools, or it is not known how the model writes calls "
    "(spec.model.toolFormat); leave tools out, or send tool_choice 'none'"
)
_SEEDS = 2**63


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a replica can do at the moment. `max_context_tokens` bounds prompt plus answer. `no_grammar`: why no answer
    can follow a grammar, empty where one can. `refused`: by field of a request why the engine cannot obey it."""

    model: str
    max_context_tokens: int
    points: tuple[OperatingPoint, ...]
    tiers: tuple[TierPolicy, ...]
    defaults: SamplingDefaults
    no_grammar: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells one request from another: its id in the engine, its tier's name ('' for none), its random seed.

    `stamp`: the tier's rules, where a router has sent the request; it decides, even where this replica has other rules.
    """

    request_id: str
    tier: str
    seed: int
    stamp: Stamp | None = None


def prepare(
    request: GenerationRequest, text: TextModel, offer: Capabilities, identity: Identity, number: int = 0
) -> Submit:
    """The engine's request for prompt `number`. ApiError 404 for another model, 400 for what cannot be done, naming
    field and value."""
    if request.model != offer.model:
        raise ApiError(
            404,
            f"model: {shown(request.model)} is not served here; {offer.model!r} is",
            code="model_not_found",
            param="model",
        )
    pin = _pin(request, offer.points, routed=identity.stamp is not None)
    _check_fields(request, offer, pin)
    grammar = _grammar(request, text, offer, pin)
    stamp = identity.stamp or _stamp(identity.tier, offer.tiers)
    tokens, left = _prompt(request, text, offer.max_context_tokens, number)
    return Submit(
        request_id=identity.request_id,
        tokens=tokens,
        max_new_tokens=left if request.token_limit is None else min(request.token_limit, left),
        sampling=Sampling(
            temperature=offer.defaults.temperature if request.temperature is None else request.temperature,
            top_p=offer.defaults.top_p if request.top_p is None else request.top_p,
            seed=(identity.seed if request.seed is None else request.seed) % _SEEDS,
            top_k=max(0, offer.defaults.top_k if request.top_k is None else request.top_k),
            min_p=offer.defaults.min_p if request.min_p is None else request.min_p,
        ),
        pin=None if pin is None else str(pin),
        lossy_ok=request.lossy_ok,
        tier=identity.tier,
        tier_tpot_s=stamp.tpot_s,
        first_left_s=stamp.left_s,
        priority=stamp.priority,
        ignore_eos=request.ignore_eos,
        grammar=grammar,
        workload="" if request.trimode is None else request.trimode.workload or "",
        adjustments=adjustments(request, offer.defaults, text),
        stop_ids=request.stop_token_ids or (),
        keep_stop=bool(request.include_stop_str_in_output),
        logprobs=request.scores,
        prompt_logprobs=request.prompt_scores,
        order=request.priority or 0,
        salt=request.cache_salt or "",
    )


def prepare_choices(
    request: GenerationRequest, text: TextModel, offer: Capabilities, identity: Identity
) -> list[Submit]:
    """One request for each choice, prompt by prompt. Choices of one prompt have seeds of their own; prompts have the
    same, so that each is answered as if it had come alone."""
    found: list[Submit] = []
    for number in range(request.prompts):
        own = identity if number == 0 else replace(identity, request_id=f"{identity.request_id}-p{number}")
        submit = prepare(request, text, offer, own, number)
        found.append(submit)
        for index in range(1, request.n or 1):
            sampling = msgspec.structs.replace(submit.sampling, seed=(submit.sampling.seed + index) % _SEEDS)
            request_id = f"{submit.request_id}-{index}"
            found.append(msgspec.structs.replace(submit, request_id=request_id, sampling=sampling))
    return found


def _prompt(request: GenerationRequest, text: TextModel, context: int, number: int) -> tuple[list[int], int]:
    """Its ids, and how many more the `context` has room for, one at least."""
    if isinstance(request, ChatRequest):
        part = "messages"
        tools = [tool.for_template() for tool in request.usable_tools]
        if tools and text.calls is None:
            raise ApiError(400, NO_TOOLS, code="not_supported", param="tools")
        for name, value in request.switches.items():
            # A switch that is off is what a model without it does anyway.
            if value not in (None, False, "none") and not text.switchable(name):
                field = name if name == "reasoning_effort" else "chat_template_kwargs"
                message = f"{field}: this model's chat template knows no {shown(name)}"
                raise ApiError(400, message, code="not_supported", param=field)
        try:
            tokens = text.chat([message.for_template() for message in request.messages], tools, request.switches)
        except TemplateError as exc:
            raise ApiError(400, f"messages: {exc}", code="invalid_value", param="messages") from exc
    else:
        assert isinstance(request, CompletionRequest)
        part, prompt = "prompt", request.prompt[number]
        tokens = text.encode(prompt) if isinstance(prompt, str) else list(prompt)
        beyond = [] if isinstance(prompt, str) else [token for token in prompt if token >= text.vocabulary]
        if beyond:
            message = f"prompt: token ids must be below {text.vocabulary}, got {beyond[0]}"
            raise ApiError(400, message, code="invalid_value", param="prompt")
    if not tokens:
        raise ApiError(400, "prompt: must not be empty", code="invalid_value", param=part)
    left = context - len(tokens)
    if left < 1:
        # LiteLLM recognises a full context by these words only, LangChain by the code in the message: OpenAI's client
        # no longer puts it there itself.
        message = (
            f"This model's maximum context length is {context} tokens, the answer included. However, your {part} "
            f"resulted in {len(tokens)} tokens; at most {context - 1} are allowed (context_length_exceeded)."
        )
        raise ApiError(400, message, code="context_length_exceeded", param=part)
    return tokens, left


def _pin(request: GenerationRequest, points: Sequence[OperatingPoint], *, routed: bool) -> OperatingPoint | None:
    """The point asked for (see `resolve`), None where the request insists on none."""
    wish = None if request.trimode is None else request.trimode.wish
    if wish is None:
        return None
    if wish.mode is Mode.DIFFUSION and not request.lossy_ok:
        raise ApiError(400, f"trimode.mode: {LOSSY_REFUSED}", code="invalid_value", param="trimode.mode")
    point = resolve(wish, points)
    if point is None:
        allowed = ", ".join(map(str, points))
        message = f"trimode: {wish} is not offered; allowed: {allowed}"
        # A router has other replicas to ask, and this one may not have the newest policy yet; a client of this replica
        # alone has to change its request.
        status, retry = (503, 1) if routed else (400, None)
        raise ApiError(status, message, code="mode_not_allowed", param="trimode", retry_after_s=retry)
    return point


def _check_fields(request: GenerationRequest, offer: Capabilities, pin: OperatingPoint | None) -> None:
    """Refuse what this pool's engine or the pinned mode cannot do, by name."""
    least, most = request.min_tokens or 0, request.token_limit
    if most is not None and least > most:
        message = f"min_tokens: must be at most max_tokens, which is {most}, got {least}"
        raise ApiError(400, message, code="invalid_value", param="min_tokens")
    stops = ("stop_token_ids",) if request.stop_token_ids else ()
    ordered = (*request.adjusting, *(("logprobs",) if request.scores is not None else ()))
    prompts = ("prompt_logprobs",) if request.prompt_scores is not None else ()
    others = [name for name in ("priority", "cache_salt") if getattr(request, name) is not None]
    for name in (*request.cutting, *ordered, *stops, *prompts, *others):
        if name in offer.refused:
            message = f"{name}: is not possible in this pool: {offer.refused[name]}"
            raise ApiError(400, message, code="not_supported", param=name)
    if ordered and pin is not None and pin.mode is Mode.DIFFUSION:
        name = ordered[0]
        message = f"{name}: Diffusion fills tokens out of order and cannot obey it; pin another mode, or none"
        raise ApiError(400, message, code="invalid_value", param=name)
    for name in ("allowed_token_ids", "bad_words"):
        if request.formed and name in request.adjusting:
            message = f"{name}: is not possible together with an answer's form, which bars tokens itself"
            raise ApiError(400, message, code="invalid_value", param=name)


def _grammar(
    request: GenerationRequest, text: TextModel, offer: Capabilities, pin: OperatingPoint | None
) -> Grammar | None:
    """What the answer must follow, found possible; None where it is free."""
    by_tools, wanted = "", None
    if isinstance(request, ChatRequest):
        by_tools, wanted = asks_for_form(request), request.response_format
    if wanted is not None and wanted.type == "text":
        wanted = None
    structured = request.structured_outputs
    if wanted is None and structured is None and not by_tools:
        return None
    what, field = ("a response_format", "response_format") if wanted is not None else (by_tools, by_tools)
    if structured is not None:
        what = field = "structured_outputs"
    if offer.no_grammar:
        kind = f"{wanted.type} is" if wanted is not None else "is"
        message = f"{field}: {kind} not possible in this pool: {offer.no_grammar}"
        raise ApiError(400, message, code="not_supported", param=field)
    if request.ignore_eos:
        message = f"ignore_eos: an answer in {what} has an end; leave ignore_eos out"
        raise ApiError(400, message, code="invalid_value", param="ignore_eos")
    if pin is not None and pin.mode is Mode.DIFFUSION:
        message = (
            f"trimode.mode: Diffusion fills tokens out of order and cannot follow {what}; "
            "leave the mode out, or send AR or SelfSpeculation"
        )
        raise ApiError(400, message, code="invalid_value", param="trimode.mode")
    if structured is not None:
        return structured_grammar(structured)
    assert isinstance(request, ChatRequest)
    form = None if wanted is None else response_grammar(wanted)
    if not request.usable_tools or text.calls is None:
        return form
    if TOOL_GRAMMAR in offer.refused:
        message = f"{field}: is not possible in this pool: {offer.refused[TOOL_GRAMMAR]}"
        raise ApiError(400, message, code="not_supported", param=field)
    # A call may take the place of an answer in a response_format.
    return tool_grammar(request, text.calls, text.call_markers, form)


def _stamp(name: str, tiers: Sequence[TierPolicy]) -> Stamp:
    """The rules of a tier that a client of this replica named itself; without objective where it named none."""
    if not name:
        return Stamp(0, 0.0)
    for tier in tiers:
        if tier.name == name:
            return Stamp(tier.priority, tier.tpot_milliseconds / 1000, tier.ttft_milliseconds / 1000)
    message = f"{TIER_HEADER}: no tier {shown(name)}; allowed are {[tier.name for tier in tiers]}"
    raise ApiError(400, message, code="unknown_tier", param=TIER_HEADER)
