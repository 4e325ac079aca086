"""`trimode router`: the router alone, before any OpenAI-compatible servers.

Belongs here: its options made into a RouterConfig. The servers are probed; load is what this router sends them.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from trimode_api.wire import (
    AdmissionPolicy,
    PolicyConfig,
    PoolPolicy,
    RouterConfig,
    StalenessPolicy,
    SwitchingPolicy,
    TierPolicy,
)
from trimode_local.entry import Entry
from trimode_local.errors import BadInput
from trimode_router.fleet.health_probe import base_of

KEY_VARIABLE = "TRIMODE_REPLICA_KEY"


def router(entry: Entry, replicas: list[str], settings: Mapping[str, Any]) -> int:
    """Serve until Ctrl-C; the exit code. `settings`: more fields of the RouterConfig. BadInput where an option makes no
    sense."""
    from trimode_router.__main__ import serve

    entry.check()
    key = os.environ.get(KEY_VARIABLE, "")
    if key and settings.get("forward_client_keys"):
        raise BadInput(f"--forward-client-keys goes without {KEY_VARIABLE}: a server is sent one of the two keys")
    config = RouterConfig(
        name="router",
        model="",
        policy=policy(),
        static_replicas=servers(replicas),
        **settings,
        **entry.fields(),
    )
    # The internal port is open, but its token is given to no replica: nothing reports to this router.
    return serve(config, secrets.token_hex(16), replica_key=key)


def checked(url: str) -> str:
    """The URL of a server. BadInput where it is none that can be served."""
    try:
        parts = urlsplit(url)
        whole = parts.scheme == "http" and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        whole = False
    if not whole or parts.query or parts.fragment or "@" in parts.netloc:
        raise BadInput(f"--replica {url!r} must be http://HOST:PORT, a path behind it where the server has one")
    return url


def servers(urls: Sequence[str]) -> tuple[str, ...]:
    """All of them, each checked. BadInput where one is named twice: it would get twice its share."""
    known: dict[str, str] = {}
    for url in map(checked, urls):
        other = known.setdefault(base_of(url), url)
        if other is not url:
            raise BadInput(f"--replica {url!r} is the same server as {other!r}")
    return tuple(known.values())


def policy() -> PolicyConfig:
    """One tier; a queue for bursts; a server that does not answer its probes for ten seconds gets nothing."""
    return PolicyConfig(
        version=1,
        tiers=(TierPolicy(name="any", ttft_milliseconds=2000, tpot_milliseconds=100, percentile=95, priority=0),),
        pools=(PoolPolicy(name="static", points=("AR",)),),
        switching=SwitchingPolicy(margin_percent=5, min_dwell_milliseconds=200, fallback={"static": "AR"}),
        admission=AdmissionPolicy(max_queued_requests=1024, max_wait_milliseconds=30_000),
        staleness=StalenessPolicy(stale_after_seconds=3, dead_after_seconds=10),
        drain_timeout_seconds=300,
    )
