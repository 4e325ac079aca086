"""The real engine from a model folder. Imports torch."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from trimode_workers.engine.cache import KVCache
from trimode_workers.engine.engine import WIDEST_BLOCK, Engine, EngineSettings
from trimode_workers.engine.footprint import Demand, rows_that_fit, tokens_that_fit
from trimode_workers.engine.layouts import paged
from trimode_workers.engine.messages import Configure, Started, Submit
from trimode_workers.engine.primitive import Attention, Primitive
from trimode_workers.errors import AdapterError, GrammarError, ModelError, RequestRefused, SettingsError
from trimode_workers.grammar.compiler import Compiler, load_vocabulary
from trimode_workers.model.adapter import load_adapter
from trimode_workers.model.config import ModelConfig
from trimode_workers.model.fused import FusedDecoder
from trimode_workers.model.loading import load_decoder
from trimode_workers.model.sampler import load_sampler
from trimode_workers.process.device import free_memory, pick_device, pick_dtype
from trimode_workers.replica.settings import EngineOptions

EXPECTED = (ModelError, SettingsError)
REFUSAL = RequestRefused

_WARM_TOKENS = 2
ROWS, PROMPT, BLOCK = 8, 16, 16
"""Of the check of drafts."""

_log = logging.getLogger(__name__)


def build(options: EngineOptions, configure: Configure, shared_tokens: int | None = None) -> tuple[Engine, Started]:
    """Load, warm up, and say what the engine can do. ModelError and SettingsError in words for a person.

    `shared_tokens` as in `EngineSettings`: 0 for measurements that send the same prompts again.
    """
    began = time.monotonic()
    network, parameters = load_network(options)
    config, device, dtype = network.config, network.like.device, network.like.dtype
    context = min(options.max_context_tokens, config.max_positions)
    settings = _settings(config, context, network.like, options.max_running_requests)
    rows = settings.max_running_requests
    # Each point once, in an engine of its own, so that first-call costs never reach the curves.
    warm = Engine(network, EngineSettings(1, 128), configure)
    for point in configure.points:
        warm.submit(Submit(point, [0], _WARM_TOKENS, pin=point, lossy_ok=True, ignore_eos=True))
        while not warm.idle:
            warm.step()
    settings = replace(settings, shared_tokens=shared_tokens)
    grammars, no_grammar = None, ""
    try:
        vocabulary = load_vocabulary(Path(options.model), config.vocab_size, config.eos_token_ids)
        grammars = Compiler(vocabulary, config.eos_token_ids[0])
    except GrammarError as exc:  # no reason not to serve the model
        no_grammar = str(exc)
        _log.warning("no response_format here: %s", exc)
    engine = Engine(network, settings, configure, grammars=grammars)
    # Before `Started`: recorded while serving, each shape would stop the whole batch.
    engine.record()
    started = Started(
        max_context_tokens=context,
        max_running_requests=rows,
        eos_token_ids=list(config.eos_token_ids),
        mask_token_id=config.mask_token_id,
        device=device.type,
        dtype=str(dtype).removeprefix("torch."),
        parameters=parameters,
        load_seconds=time.monotonic() - began,
        no_grammar=no_grammar,
    )
    return engine, started


def load_network(options: EngineOptions) -> tuple[FusedDecoder, int]:
    """The network on its device, with its draft adapter and sampler head where it has them, and how many parameters
    it has. Raises ModelError."""
    if options.threads:
        torch.set_num_threads(options.threads)
    device = pick_device()
    decoder, _ = load_decoder(options.model, pick_dtype(options.dtype, device))
    network = decoder.fused(device)
    if options.draft_adapter is not None:
        folder = Path(options.model, options.draft_adapter)
        network.adapt(load_adapter(folder, decoder).outputs(decoder))
        check = compare_drafts(network)
        if check.difference == 0.0:
            raise AdapterError(
                f"{folder}: the draft adapter changes nothing: with it, all drafts are scored as without"
            )
        log = _log.info if check.changed else _log.warning
        log("draft adapter %s: changes %d of %d drafts at the start", folder.name, check.changed, check.drafts)
    network.sampler = load_sampler(options.model, network.config.hidden_size)
    if network.sampler is not None:
        network.sampler.to(device)
        _log.info("diffusion goes by the sampler head of %s", options.model)
    return network, sum(tensor.numel() for tensor in decoder.parameters())


def _settings(config: ModelConfig, context: int, like: Tensor, wanted: int) -> EngineSettings:
    """Rows of the longest context, or the tokens of pages, that memory allows. SettingsError where not one fits."""
    device, dtype, free = like.device, like.dtype, free_memory(like.device)
    demand = Demand(wanted, context, WIDEST_BLOCK)
    if paged(EngineSettings(), device):
        tokens = tokens_that_fit(config, demand, dtype.itemsize, free)
        _log.info("%d tokens of %d requests fit into the %.1f GiB that are free", tokens, wanted, free / 2**30)
        return EngineSettings(wanted, context, capacity_tokens=tokens)
    rows = rows_that_fit(config, demand, dtype.itemsize, free)
    if rows < wanted:
        _log.warning(
            "%d of max_running_requests %d fit at %d tokens each into the %.1f GiB that are free (%s)",
            *(rows, wanted, context, free / 2**30, device),
        )
    return EngineSettings(rows, context)


@dataclass(frozen=True, slots=True)
class DraftCheck:
    """`difference`: largest change of a logit. `changed` of `drafts` drafted tokens differ."""

    difference: float
    changed: int
    drafts: int


@torch.inference_mode()
def compare_drafts(network: FusedDecoder) -> DraftCheck:
    """Draft behind the same random prompts with the adapter and without: one that is silently not applied costs speed
    only, so that nothing else would show it."""
    config = network.config
    cache = KVCache(config, ROWS, PROMPT + BLOCK, network.like.dtype, network.like.device)
    primitive = Primitive(network, cache)
    random = torch.Generator().manual_seed(0)
    prompts = torch.randint(config.vocab_size, (ROWS, PROMPT), generator=random).tolist()
    rows = list(range(ROWS))
    primitive.advance([prompt[:-1] for prompt in prompts], rows, [0] * ROWS)
    # The forward that drafts, not the weights, is what is checked: a commit of an SGLang fork had loaded the adapter
    # and never applied it under CUDA graphs.
    window = primitive.window(rows, [PROMPT - 1] * ROWS, BLOCK)
    blank = [config.mask_token_id] * (BLOCK - 1)
    block = primitive.tensor([[prompt[-1], *blank] for prompt in prompts])
    plain, adapted = (
        primitive.forward(block, window, Attention.BLOCK, first=1, drafting=drafting) for drafting in (False, True)
    )
    changed = int((plain.argmax(-1) != adapted.argmax(-1)).sum())
    return DraftCheck(float((plain.float() - adapted.float()).abs().max()), changed, ROWS * (BLOCK - 1))
