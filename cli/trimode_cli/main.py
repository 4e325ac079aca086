"""`trimode`: the command line.

Belongs here: commands, their options and help. What a command does lives in its own module, imported when it runs,
so that `trimode --help` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from trimode_api.errors import TrimodeError
from trimode_local import console
from trimode_local.errors import BadInput
from trimode_tools.simulate.command import simulate

app = typer.Typer(
    name="trimode",
    help="Serve a tri-mode language model behind one OpenAI-compatible endpoint. It decodes in the mode that is "
    "fastest now: self-speculation for few users, autoregression for many.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

File = Annotated[
    str, typer.Option("--file", "-f", metavar="FILE", help="YAML file with a NemotronDeployment; - reads stdin.")
]
Host = Annotated[str, typer.Option(help="Interface that the endpoint listens on.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Its port; 0 takes any free one.")]
Keys = Annotated[str, typer.Option(metavar="FILE", help="API keys and tenants; see docs/router.md.")]
Certificate = Annotated[str, typer.Option(metavar="FILE", help="PEM; makes it HTTPS.")]
CertificateKey = Annotated[str, typer.Option(metavar="FILE", help="PEM, where it is not in the certificate's.")]
Anyone = Annotated[bool, typer.Option("--anyone", help="Listen on the network without keys.")]
CorsOrigins = Annotated[
    list[str] | None,
    typer.Option("--cors-origin", metavar="ORIGIN", help="Browsers let pages of it ask; give several, * for any."),
]
AllowedHosts = Annotated[
    list[str] | None,
    typer.Option("--allowed-host", metavar="NAME", help="A name of this machine, asked without keys; * for any."),
]

Url = Annotated[str, typer.Option(help="The endpoint.")]
DEFAULT_URL = "http://127.0.0.1:8000"

_TOOLS = "pip install 'trimode[tools]'"


@app.command()
def up(
    file: File,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    keys: Keys = "",
    tls_certificate: Certificate = "",
    tls_key: CertificateKey = "",
    anyone: Anyone = False,
    cors_origin: CorsOrigins = None,
    allowed_host: AllowedHosts = None,
) -> None:
    """Serve a deployment on this machine until Ctrl-C.

    Starts a Ray of its own, the pools and the router, and ends all of it again. Change it meanwhile with
    [bold]trimode apply[/bold]. Files stand for the Secrets that spec.router names on a cluster.
    """
    from trimode_local.command import up as run
    from trimode_local.entry import Entry

    origins, hosts = tuple(cors_origin or ()), tuple(allowed_host or ())
    run(file, Entry(host, port, keys, tls_certificate, tls_key, anyone, origins, hosts))


@app.command()
def apply(file: File) -> None:
    """Change the deployment that runs here under the same name.

    Policy, tiers, modes and block lengths reach running engines without a restart or a dropped request; a new model
    or engine rolls the pools.
    """
    from trimode_local.command import apply as run

    run(file)


@app.command()
def chat(
    url: Url = DEFAULT_URL,
    mode: Annotated[str | None, typer.Option(help="Pin the mode: AR, SelfSpeculation or Diffusion.")] = None,
    block_length: Annotated[int | None, typer.Option(help="Pin its block length: 4, 8, 16, 32 or 64.")] = None,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 is greedy.")] = 0.0,
    system: Annotated[str | None, typer.Option(help="A system prompt.")] = None,
) -> None:
    """Talk to the model; each answer says how it was decoded."""
    from trimode_cli.chat import chat as run

    run(url, mode, block_length, temperature, system)


@app.command()
def bench(
    out: Annotated[str, typer.Option(metavar="DIR", help="Where the JSON and the picture go.")] = ".",
    quick: Annotated[bool, typer.Option("--quick", help="Fewer concurrencies, one round: a smoke test.")] = False,
    engine_only: Annotated[bool, typer.Option("--engine-only", help="Leave the router out.")] = False,
    ramp: Annotated[bool, typer.Option("--ramp", help="A load that rises and falls instead; ramp.json, .png.")] = False,
    url: Annotated[str | None, typer.Option(help="Measure this endpoint instead of starting one.")] = None,
    model: Annotated[
        str | None, typer.Option(metavar="URI", help="With --engine-only: this model, hf:// or file://.")
    ] = None,
    draft_adapter: Annotated[str | None, typer.Option(help="Folder of a draft adapter in --model.")] = None,
) -> None:
    """Measure static points against the adaptive policy, in the engine alone and through the router.

    Writes bench.json and bench.png.
    """
    from trimode_tools.bench import command

    if engine_only and (ramp or url):
        raise BadInput("--engine-only goes neither with --ramp nor with --url: the engine alone has no endpoint")
    if (model or draft_adapter) and not engine_only:
        raise BadInput("--model and --draft-adapter need --engine-only: the rest measures the packaged model")
    if draft_adapter and not model:
        raise BadInput("--draft-adapter needs --model, which it is a folder of")
    if model:
        command.bench_model(out, quick, model, draft_adapter)
    elif ramp:
        command.bench_ramp(out, quick, url)
    else:
        command.bench(out, quick, engine_only, url)


@app.command(name="eval")
def evaluate(
    out: Annotated[str, typer.Option(metavar="DIR", help="Where the JSON, the table and the picture go.")] = ".",
    model: Annotated[str, typer.Option(metavar="URI", help="hf://OWNER/NAME, file:///PATH or tiny://.")] = "tiny://",
    draft_adapter: Annotated[str | None, typer.Option(help="Folder of a draft adapter in the model.")] = None,
    url: Annotated[str | None, typer.Option(help="Ask this endpoint, at the points it allows, instead.")] = None,
    prompts: Annotated[
        str | None, typer.Option(metavar="FILE", help="JSONL with prompt and answer; the task suite without.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Questions of each task of the suite.")] = 25,
    points: Annotated[str | None, typer.Option(metavar="LIST", help="Such as AR,S8,D32@0.9.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Requests at once.")] = 1,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0, help="Of the machine; gives the cost of a million tokens.")
    ] = None,
) -> None:
    """Test a model at every operating point: how right, how fast, at what cost.

    Writes eval.json, eval.md and eval.png.
    """
    from trimode_tools.eval.command import Options
    from trimode_tools.eval.command import evaluate as run

    if url is not None and (model != "tiny://" or draft_adapter is not None):
        raise BadInput("--url goes neither with --model nor with --draft-adapter: the endpoint has its own")
    run(Options(out, model, draft_adapter, url, prompts, samples, points, concurrency, max_tokens, price_per_hour))


@app.command()
def profile(
    out: Annotated[Path, typer.Option(metavar="FILE", help="The profile, YAML; its picture goes beside it.")],
    model: Annotated[str, typer.Option(metavar="URI", help="hf://OWNER/NAME, file:///PATH or tiny://.")] = "tiny://",
    draft_adapter: Annotated[str | None, typer.Option(help="Folder of a draft adapter in the model.")] = None,
    points: Annotated[str, typer.Option(metavar="LIST", help="Such as AR,S8; AR is always among them.")] = (
        "AR,S8,S16,S32"
    ),
    max_batch: Annotated[
        int, typer.Option(min=1, max=4096, help="Most requests at once; powers of two up to it.")
    ] = 64,
    context: Annotated[int, typer.Option(min=8, help="Cached tokens of a request: at this many, and a quarter.")] = 256,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves them to torch.")] = 0,
    prompts: Annotated[
        str | None, typer.Option(metavar="FILE", help="JSONL as of `trimode eval`; the task suite without.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="One short round: a smoke test.")] = False,
    validate: Annotated[
        bool, typer.Option("--validate", help="In turns, a closed loop on the engine, and what the simulator predicts.")
    ] = False,
) -> None:
    """Measure what an engine's cycles cost on this machine, for [bold]trimode simulate --profile[/bold].

    Writes FILE and a picture: seconds per cycle by operating point, batch and context, what prompts add, and tokens
    per cycle by kind of request.
    """
    from trimode_tools.profile.command import Options
    from trimode_tools.profile.command import profile as run

    run(Options(out, model, draft_adapter, points, max_batch, context, threads, prompts, quick, validate))


app.command()(simulate)


@app.command()
def router(
    replica: Annotated[list[str], typer.Option(metavar="URL", help="An OpenAI-compatible server; give several.")],
    host: Host = "127.0.0.1",
    port: Port = 8000,
    max_running: Annotated[int, typer.Option(min=1, help="Requests sent to one server at a time.")] = 256,
    keys: Keys = "",
    tls_certificate: Certificate = "",
    tls_key: CertificateKey = "",
    processes: Annotated[int, typer.Option(min=1, max=64, help="Routers that share the port, one a core.")] = 1,
    anyone: Anyone = False,
    cors_origin: CorsOrigins = None,
    allowed_host: AllowedHosts = None,
    forward_client_keys: Annotated[
        bool, typer.Option("--forward-client-keys", help="With --keys: servers get the clients' keys, too.")
    ] = False,
    idle_seconds: Annotated[float, typer.Option(min=1, max=86_400, help="An idle connection is kept so long.")] = 120,
    header_bytes: Annotated[int, typer.Option(min=1024, max=2**20, help="Most that its head may have.")] = 2**14,
    body_bytes: Annotated[int, typer.Option(min=1024, max=2**30, help="Most that its body may have.")] = 2**23,
) -> None:
    """Route to any OpenAI-compatible servers: the router without the rest.

    Servers are asked for their models once a second, and get requests for these only. The key sent to them is
    TRIMODE_REPLICA_KEY; without it the client's own, or none where --keys are the router's.
    """
    from trimode_cli.router import router as run
    from trimode_local.entry import Entry

    origins, hosts = tuple(cors_origin or ()), tuple(allowed_host or ())
    entry = Entry(host, port, keys, tls_certificate, tls_key, anyone, origins, hosts)
    edge = {"idle_seconds": idle_seconds, "header_bytes": header_bytes, "body_bytes": body_bytes}
    settings = {"static_max_running": max_running, "processes": processes, **edge}
    sys.exit(run(entry, replica, settings | {"forward_client_keys": forward_client_keys}))


@app.command()
def crd() -> None:
    """Print the CustomResourceDefinition as YAML."""
    import yaml

    from trimode_api.crd import custom_resource_definition

    sys.stdout.write(yaml.safe_dump(custom_resource_definition(), sort_keys=False, width=100))


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as of

    sys.stdout.write(f"trimode {of('trimode')}\n")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 fine, 1 something failed, 2 bad input."""
    try:
        app(arguments, prog_name="trimode")
    except TrimodeError as error:
        sys.exit(console.show_error(error))
    except ModuleNotFoundError as error:
        # What measures draws pictures; what serves does without.
        if error.name != "matplotlib":
            raise
        sys.exit(console.show_error(BadInput("this draws with matplotlib, which is not installed", _TOOLS)))


if __name__ == "__main__":
    main()
