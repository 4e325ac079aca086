"""What a request wants done to logits, as the engine takes it. Pure."""

from __future__ import annotations

from trimode_api.openai import GenerationRequest
from trimode_workers.engine.messages import Adjustments
from trimode_workers.openai.defaults import SamplingDefaults
from trimode_workers.text.tokenizer import TextModel

_NONE = Adjustments()


def adjustments(request: GenerationRequest, defaults: SamplingDefaults, text: TextModel) -> Adjustments | None:
    """None where nothing is wanted."""
    repetition = request.repetition_penalty
    if repetition is None:
        # A model's default must not keep those from diffusion who asked for it.
        repetition = 1.0 if request.lossy_ok else defaults.repetition_penalty
    banned: list[tuple[int, ...]] = []
    for word in request.bad_words or ():
        # At the beginning of a text and behind a space, as vLLM bars a word; other spellings get through.
        bare = word.lstrip()
        banned += {tuple(text.spell(each)) for each in (bare, f" {bare}")} - {()}
    found = Adjustments(
        bias=request.logit_bias or {},
        allowed=request.allowed_token_ids,
        banned=tuple(banned),
        min_tokens=request.min_tokens or 0,
        repetition=repetition,
        presence=request.presence_penalty or 0.0,
        frequency=request.frequency_penalty or 0.0,
    )
    return None if found == _NONE else found
