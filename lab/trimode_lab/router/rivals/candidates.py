"""How each router is started before two servers.

Each has one worker (thread or process) where that can be said, as ours has.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from socket import socket

MODEL = "bench"
KEY = "none"
"""What the client of `trimode_lab.router.bench` sends."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """`command`: (folder for files, its port, the servers' ports) -> argv without the binary."""

    name: str
    binary: str
    command: Callable[[Path, int, list[int]], list[str]]

    def found(self, path: str) -> str | None:
        """Where its binary is, in the folders of `path`."""
        return shutil.which(self.binary, path=path)


def _nginx(folder: Path, port: int, servers: list[int]) -> list[str]:
    upstream = "".join(f"server 127.0.0.1:{server}; " for server in servers)
    file = folder / "nginx.conf"
    file.write_text(
        f"""daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log /dev/null;
events {{ worker_connections 16384; }}
http {{
  access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; keepalive_requests 1000000;
  upstream servers {{ least_conn; {upstream} keepalive 256; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    location / {{ proxy_pass http://servers; }}
  }}
}}
"""
    )
    return ["-c", str(file), "-p", str(folder)]


def _haproxy(folder: Path, port: int, servers: list[int]) -> list[str]:
    lines = "".join(f"  server s{server} 127.0.0.1:{server}\n" for server in servers)
    file = folder / "haproxy.cfg"
    file.write_text(
        f"""global
  nbthread 1
  maxconn 8000
defaults
  mode http
  timeout connect 5s
  timeout client 300s
  timeout server 300s
  option http-no-delay
frontend all
  bind 127.0.0.1:{port} backlog 4096
  default_backend servers
backend servers
  balance leastconn
  http-reuse always
{lines}"""
    )
    return ["-f", str(file)]


def _vllm(folder: Path, port: int, servers: list[int]) -> list[str]:
    urls = [f"http://127.0.0.1:{server}" for server in servers]
    own = ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port())]
    return [*own, "--policy", "round_robin", "--worker-urls", *urls]


def free_port() -> int:
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _litellm(folder: Path, port: int, servers: list[int]) -> list[str]:
    file = folder / "litellm.json"
    models = [
        {
            "model_name": MODEL,
            "litellm_params": {"model": f"openai/{MODEL}", "api_base": f"http://127.0.0.1:{server}/v1", "api_key": KEY},
        }
        for server in servers
    ]
    without_key = {"dangerously_permit_weak_or_unset_master_key": True}  # it starts for nothing else; on loopback only
    file.write_text(json.dumps({"model_list": models, "general_settings": without_key}))
    return ["--host", "127.0.0.1", "--port", str(port), "--config", str(file), "--num_workers", "1"]


def key_file(folder: Path) -> Path:
    """Ours runs with all features on: keys and budgets are among them."""
    file = folder / "keys.json"
    tenant = {"name": "bench", "requestsPerMinute": 100_000_000, "tokensPerMinute": 1_000_000_000}
    key = {"tenant": "bench", "sha256": sha256(KEY.encode()).hexdigest()}
    file.write_text(json.dumps({"tenants": [tenant], "keys": [key]}))
    return file


RIVALS = (
    Candidate("vllm-router", "vllm-router", _vllm),
    Candidate("sglang-router", "sglang-router", lambda *to: ["launch", *_vllm(*to)]),
    Candidate("nginx", "nginx", _nginx),
    Candidate("HAProxy", "haproxy", _haproxy),
    Candidate("LiteLLM", "litellm", _litellm),
)
