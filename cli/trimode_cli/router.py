"""`trimode router`: the router alone, before any OpenAI-compatible servers.

Belongs here: its options made into a RouterConfig. The servers are probed; load is what this router sends them.
"""

from __future__ import annotations

import os
import secrets
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
from trimode_cli.entry import Entry
from trimode_cli.errors import BadInput

KEY_VARIABLE = "TRIMODE_REPLICA_KEY"


def router(entry: Entry, replicas: list[str], max_running: int, processes: int) -> int:
    """Serve until Ctrl-C; the exit code. BadInput where an option makes no sense."""
    from trimode_router.__main__ import serve

    entry.check()
    config = RouterConfig(
        name="router",
        model="",
        policy=policy(),
        static_replicas=tuple(map(checked, replicas)),
        static_max_running=max_running,
        processes=processes,
        **entry.fields(),
    )
    # The internal port is there, but nobody has its token: nothing reports to this router.
    return serve(config, secrets.token_hex(16), replica_key=os.environ.get(KEY_VARIABLE, ""))


def checked(url: str) -> str:
    """The URL of a server. BadInput where it is none that can be served."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise BadInput(f"--replica {url!r} must be http://HOST:PORT")
    return url


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
