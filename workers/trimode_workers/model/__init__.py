"""The decoder and its files: config, rotary embedding, network, loading. No caches, no modes, no text."""

from trimode_workers.model.config import ModelConfig, RopeConfig
from trimode_workers.model.decoder import Attend, Decoder, Network
from trimode_workers.model.errors import ConfigError, ModelError, WeightsError
from trimode_workers.model.fused import FusedDecoder
from trimode_workers.model.loading import load_decoder, save_decoder

__all__ = [
    "Attend",
    "ConfigError",
    "Decoder",
    "FusedDecoder",
    "ModelConfig",
    "ModelError",
    "Network",
    "RopeConfig",
    "WeightsError",
    "load_decoder",
    "save_decoder",
]
