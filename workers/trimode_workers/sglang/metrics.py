"""The server's own figures, from its /metrics. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

_FIELDS = {
    "sglang:num_running_reqs": "running",
    "sglang:num_queue_reqs": "waiting",
    "sglang:num_used_tokens": "cached_tokens",
    "sglang:max_total_num_tokens": "capacity_tokens",
    "sglang:token_usage": "token_usage",
    "sglang:spec_accept_length": "accept_length",
    "sglang:num_retracted_requests_total": "retracted",
}


@dataclass(frozen=True, slots=True)
class Figures:
    """Summed over data parallel ranks. `accept_length` 0 where the server reports none, as for dLLM algorithms."""

    running: float = 0.0
    waiting: float = 0.0
    cached_tokens: float = 0.0
    capacity_tokens: float = 0.0
    token_usage: float = 0.0
    accept_length: float = 0.0
    retracted: float = 0.0

    @property
    def used_tokens(self) -> int:
        """Cached tokens; older servers tell their share only."""
        return int(self.cached_tokens or self.token_usage * self.capacity_tokens)


def parse(text: str) -> Figures:
    """The figures in Prometheus' text format; ValueError where it is none."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            field = _FIELDS.get(sample.name)
            if field is not None:
                found[field] = found.get(field, 0.0) + sample.value
    return Figures(**found)
