"""The decoder and its files: config, rotary embedding, network, loading. No caches, no modes, no text."""

from trimode_workers.errors import AdapterError, ConfigError, ModelError, WeightsError
from trimode_workers.model.adapter import DraftAdapter, load_adapter
from trimode_workers.model.config import ModelConfig, RopeConfig
from trimode_workers.model.decoder import Attend, Decoder, Network
from trimode_workers.model.fused import FusedDecoder
from trimode_workers.model.loading import load_decoder, save_decoder

__all__ = [
    "AdapterError",
    "Attend",
    "ConfigError",
    "Decoder",
    "DraftAdapter",
    "FusedDecoder",
    "ModelConfig",
    "ModelError",
    "Network",
    "RopeConfig",
    "WeightsError",
    "load_adapter",
    "load_decoder",
    "save_decoder",
]
