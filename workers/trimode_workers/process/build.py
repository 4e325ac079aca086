"""The real engine from a model folder.

Belongs here: everything between the options and a warm engine. Imports torch.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import torch

from trimode_workers.engine.adaption import compare_drafts
from trimode_workers.engine.engine import Engine, EngineSettings
from trimode_workers.engine.errors import RequestRefused, SettingsError
from trimode_workers.engine.messages import Configure, Started, Submit
from trimode_workers.model.adapter import load_adapter
from trimode_workers.model.decoder import Decoder, Network
from trimode_workers.model.errors import AdapterError, ModelError
from trimode_workers.model.fused import FusedDecoder
from trimode_workers.model.loading import load_decoder
from trimode_workers.replica.settings import EngineOptions

EXPECTED = (ModelError, SettingsError)
REFUSAL = RequestRefused

_WARM_TOKENS = 2

_log = logging.getLogger(__name__)


def build(options: EngineOptions, configure: Configure) -> tuple[Engine, Started]:
    """Load, warm up, and say what the engine can do. ModelError and SettingsError in words for a person."""
    began = time.monotonic()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = _dtype(options.dtype, device)
    decoder, config = load_decoder(options.model, dtype)
    context = min(options.max_context_tokens, config.max_positions)
    parameters = sum(tensor.numel() for tensor in decoder.parameters())
    network = decoder.to(device).fused()
    if options.draft_adapter is not None:
        _adapt(network, decoder, Path(options.model, options.draft_adapter))
    del decoder
    _warm(network, configure)
    settings = EngineSettings(options.max_running_requests, context)
    started = Started(
        max_context_tokens=context,
        max_running_requests=options.max_running_requests,
        eos_token_ids=list(config.eos_token_ids),
        mask_token_id=config.mask_token_id,
        device=device,
        dtype=str(dtype).removeprefix("torch."),
        parameters=parameters,
        load_seconds=time.monotonic() - began,
    )
    return Engine(network, settings, configure), started


def _adapt(network: FusedDecoder, decoder: Decoder, folder: Path) -> None:
    """Give the network its draft adapter; AdapterError where that leaves the drafts as they were."""
    network.adapt(load_adapter(folder, decoder).outputs(decoder))
    check = compare_drafts(network)
    if check.difference == 0.0:
        raise AdapterError(f"{folder}: the draft adapter changes nothing: with it, all drafts are scored as without")
    log = _log.info if check.changed else _log.warning
    log("draft adapter %s: changes %d of %d drafts at the start", folder.name, check.changed, check.drafts)


def _dtype(name: str, device: str) -> torch.dtype:
    """`auto`: bfloat16 is slower than float32 on CPUs."""
    if name == "auto":
        name = "bfloat16" if device == "cuda" else "float32"
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[name]


def _warm(network: Network, configure: Configure) -> None:
    """Run each point once, in an engine of its own, so that first-call costs never reach the curves."""
    engine = Engine(network, EngineSettings(1, 128), configure)
    for point in configure.points:
        engine.submit(Submit(point, [0], _WARM_TOKENS, pin=point, lossy_ok=True, ignore_eos=True))
        while not engine.idle:
            engine.step()
