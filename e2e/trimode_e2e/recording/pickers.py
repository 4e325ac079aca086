"""Where the Inference Extension's endpoint picker sends requests to routers, and what it makes of their metrics.

Belongs here: the steps. The API server, the picker, its rights, Envoy and the routers' processes are real; what a node
does for the routers' pods is written here, and behind the routers are servers without a model.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import psutil
import yaml

from trimode_api.resource import NemotronDeployment
from trimode_e2e import endpoint_picker
from trimode_e2e.api import Api, Object
from trimode_e2e.control import provide
from trimode_e2e.control.build import PICKER, build
from trimode_e2e.control.programs import Program
from trimode_e2e.crds import ROOT
from trimode_e2e.endpoint_picker import MODULE, PATIENCE_S, RECORDED, asking_envoy, picker
from trimode_e2e.kubectl import Kubectl, kubectl_program
from trimode_e2e.named_servers import serving
from trimode_e2e.node import network
from trimode_e2e.world import World
from trimode_operator.apply.diff import with_digest
from trimode_operator.plan import Capabilities, Observed, Owner, make_plan
from trimode_operator.plan.names import MANAGER
from trimode_operator.plan.settings import EndpointPicker, Settings

COMMAND = "PYTHONPATH=e2e python -m trimode_e2e record-picker"
PLACE, POOL = "models", "chat-router"
ADDRESSES = ("10.244.0.11", "10.244.0.12")
"""Of the routers' pods; they exist in the recording's own network."""
CHAT = "/v1/chat/completions"
ASKED, HELD, HELD_PROMPT = 60, 8, "hold"
"""Requests of a step; those that a busy router has: some of them wait, since it sends its server few at a time."""
AT_ONCE = 4
REST_S = 10.0
"""How long processors are looked at."""

Say = Callable[[str], None]


def record(say: Say) -> None:
    """Write `RECORDED`. Root. Raises Missing and Broken."""
    program = build(PICKER, say) / "epp"
    definitions = endpoint_picker.definitions()  # before the network goes: the module may have to be fetched
    network.enter()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trimode-")))
        cluster = stack.enter_context(provide.paper())
        world = World.create(cluster, folder)
        for each in definitions:
            world.install(each)
        recording = Recording(world.api, Kubectl(kubectl_program(), cluster.kubeconfig, folder), folder)
        recording.prepare()
        for address in ADDRESSES:
            recording.start_router(stack, address)
        recording.url = stack.enter_context(asking_envoy(folder))
        steps = recording.steps(program, say)
        about = {
            "command": COMMAND,
            "picker": PICKER.version(MODULE),
            "kubernetes": cluster.stands_on,
        }
    content = {
        "about": about,
        "pool": recording.pool,
        "arguments": endpoint_picker.arguments(),
        "configuration": yaml.safe_load(endpoint_picker.example("ConfigMap")["data"]["picker.yaml"]),
        "steps": steps,
    }
    RECORDED.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    say(f"wrote {RECORDED.relative_to(ROOT)}: {len(steps)} steps")


def planned(resource: Object) -> list[Object]:
    """What the operator makes of a resource where its settings name pickers by the pools' names."""
    owner = Owner(resource["metadata"]["name"], PLACE, resource["metadata"]["uid"], 1)
    settings = Settings(image="trimode:1", endpoint_picker=EndpointPicker(suffix="-epp"))
    plan = make_plan(
        NemotronDeployment.parse(resource), owner, settings, Capabilities(inference_pool=True), Observed(token="secret")
    )
    return [dict(each) for each in plan.children]


class Recording:
    """The steps, on a cluster without a node. `url` is Envoy's, `pool` the InferencePool's spec."""

    url: str
    pool: Object

    def __init__(self, api: Api, kubectl: Kubectl, folder: Path) -> None:
        self._api, self._kubectl, self._folder = api, kubectl, folder
        self._asked = Counter[str]()
        self._go = threading.Event()
        self._routers: dict[str, Program] = {}

    def prepare(self) -> None:
        """The fleet's pool and its routers' pods, and the example's objects of the picker."""
        self._api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PLACE}})
        fleet = next(iter(yaml.safe_load_all((ROOT / "examples" / "gateways" / "fleets.yaml").read_text())))
        made = self._api.apply({**fleet, "metadata": {**fleet["metadata"], "namespace": PLACE}})
        children = planned(made)
        (deployment,) = [each for each in children if each["kind"] == "Deployment"]
        deployment["spec"]["replicas"] = len(ADDRESSES)
        for each in children:
            if each["kind"] in ("Deployment", "ServiceAccount", "InferencePool"):
                words = ("apply", "--server-side", f"--field-manager={MANAGER}", "--filename=-")
                self._kubectl(*words, text=json.dumps(with_digest(each)))
        self._kubectl("--namespace", PLACE, "apply", f"--filename={endpoint_picker.EXAMPLE}")
        self.pool = (self._api.get("inference.networking.k8s.io/v1", "InferencePool", POOL, PLACE) or {})["spec"]
        for name, address in zip(self._pods(), ADDRESSES, strict=True):
            self._ready(name, address, True)

    def start_router(self, stack: ExitStack, address: str) -> None:
        """As its pod would run it, before a server without a model."""
        network.add_address(address)
        server = stack.enter_context(model_server(address, self._asked, self._go))
        command = (sys.executable, "-m", "trimode_cli.main", "router", "--host", address, "--port", "8000", "--anyone")
        words = (*command, "--replica", f"http://127.0.0.1:{server}", "--max-running", str(AT_ONCE))
        router = Program.start(f"router {address}", words, self._folder / f"{address}.log")
        stack.callback(router.stop)
        router.wait_until(lambda: _status(f"http://{address}:8000/readyz") == 200, PATIENCE_S)
        self._routers[address] = router

    def steps(self, program: Path, say: Say) -> list[Object]:
        done = []

        def step(name: str, **more: object) -> None:
            done.append({"name": name, "answered": self._ask(), **more})
            say(f"{name}: {done[-1]['answered']}")

        idle = self._processors()
        config = self._folder / "picker.yaml"
        config.write_text(endpoint_picker.example("ConfigMap")["data"]["picker.yaml"])
        own = [word.replace("/config/picker.yaml", str(config)) for word in endpoint_picker.arguments()]
        with self._picking(program, own):
            self._until(lambda: self._told()["ready"] == len(ADDRESSES), "the picker knows all")
            step("at rest", processors={"without": idle, "asked for metrics": self._processors()})
            with self._busy(ADDRESSES[0]):
                step("one is busy", picker=self._told())
            with self._busy(ADDRESSES[1]):
                step("the other is busy", picker=self._told())
            done.append({"name": "a stream", "pieces_before_the_end": self._stream()})
            self._ready(self._pods()[0], ADDRESSES[0], False)
            self._until(lambda: self._told()["ready"] == 1, "a router has left")
            step("a router leaves")
            self._ready(self._pods()[0], ADDRESSES[0], True)
            self._until(lambda: self._told()["ready"] == 2, "the router is back")
            step("it is back")
        plain = [word for word in own if not word.startswith(("--config-file", "--refresh"))]
        with self._picking(program, plain) as running:
            processors = self._processors()
            with self._busy(ADDRESSES[0]):
                time.sleep(1)  # nothing tells that it has looked: it finds nothing
                step("by its defaults", picker=self._told(), processors=processors, says=complaints(running.log))
        return done

    @contextmanager
    def _picking(self, program: Path, words: Sequence[str]) -> Iterator[Program]:
        """The picker with the rights that the example gives it."""
        token = self._kubectl("--namespace", PLACE, "create", "token", f"{POOL}-epp").strip()
        file = self._folder / "picker.kubeconfig"
        settings = yaml.safe_load(self._api.kubeconfig.read_text())
        settings["users"] = [{"name": "picker", "user": {"token": token}}]
        settings["contexts"][0]["context"]["user"] = "picker"
        file.write_text(yaml.safe_dump(settings))
        with picker(program, words, self._folder, file, PLACE) as running:
            self._until(lambda: post(self.url, "tell") == 200, "the picker picks")
            yield running

    @contextmanager
    def _busy(self, address: str) -> Iterator[None]:
        """A router has requests that it was sent past the gateway, and has told of them."""
        self._go.clear()

        def is_busy() -> bool:
            text = _text(f"http://{address}:8000/metrics")
            queued, in_flight = (gauge(text, f"trimode_router_{name}") for name in ("queued", "in_flight"))
            return queued > 0 and queued + in_flight == HELD

        with ExitStack() as stack:
            threads = [threading.Thread(target=post, args=[f"http://{address}:8000", HELD_PROMPT]) for _ in range(HELD)]
            for thread in threads:
                thread.start()
                stack.callback(thread.join)
            stack.callback(self._go.set)
            self._until(is_busy, "the router is busy")
            time.sleep(1)  # the picker looks four times a second
            yield

    def _ask(self) -> dict[str, int]:
        """Answers by router, one request after the other; refusals by their status."""
        before, refused = self._asked.copy(), Counter[str]()
        for _ in range(ASKED):
            status = post(self.url, "tell")
            if status != 200:
                refused[str(status)] += 1
        return dict(self._asked - before) | dict(refused)

    def _stream(self) -> int:
        """Pieces of an answer that came through before the server was told to go on."""
        self._go.clear()
        try:
            with httpx.stream("POST", f"{self.url}{CHAT}", json=body(HELD_PROMPT), timeout=PATIENCE_S) as answer:
                lines = answer.iter_lines()
                came = len([line for line in (next(lines), next(lines)) if line])
                self._go.set()
                assert "data: [DONE]" in list(lines)
        finally:
            self._go.set()
        return came

    def _told(self) -> Object:
        """What the picker has understood of its pool: routers that it can go by, and what waits in each."""
        text = endpoint_picker.metrics()
        waiting = dict(
            re.findall(r'^inference_pool_per_pod_queue_size\{model_server_pod="(.*?)-rank-0".*\} (\S+)$', text, re.M)
        )
        (ready,) = re.findall(r"^inference_pool_ready_pods\{.*\} (\S+)$", text, re.M)
        names = zip(ADDRESSES, self._pods(), strict=True)
        return {"ready": int(float(ready)), "waiting": {address: float(waiting.get(pod, 0)) for address, pod in names}}

    def _processors(self) -> float:
        """The share of a processor that a router takes while nobody asks it for an answer."""
        processes = [psutil.Process(each.pid) for each in self._routers.values()]
        before = [sum(each.cpu_times()[:2]) for each in processes]
        time.sleep(REST_S)
        used = [sum(each.cpu_times()[:2]) - began for each, began in zip(processes, before, strict=True)]
        return round(max(used) / REST_S, 3)

    def _pods(self) -> list[str]:
        selector = ",".join(f"{key}={value}" for key, value in self.pool["selector"]["matchLabels"].items())

        def look() -> list[Object]:
            pods = self._api.listed("v1", "Pod", PLACE, selector)
            return pods if len(pods) == len(ADDRESSES) else []

        return sorted(each["metadata"]["name"] for each in self._api.until(look, "the routers' pods"))

    def _ready(self, pod: str, address: str, ready: bool) -> None:
        """As kubelet has it."""
        condition = {"type": "Ready", "status": str(ready)}
        status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [condition]}
        self._api.patch_status("v1", "Pod", pod, PLACE, status)

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        self._api.until(holds, what, PATIENCE_S)


@contextmanager
def model_server(name: str, asked: Counter[str], go: threading.Event) -> Iterator[int]:
    """An OpenAI-compatible server that counts in `asked`; answers to `HELD_PROMPT` end when `go` is set. Its port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._whole({"object": "list", "data": [{"id": "chat", "object": "model"}]})

        def do_POST(self) -> None:
            said = json.loads(self.rfile.read(int(self.headers["content-length"])))
            held = said["messages"][0]["content"] == HELD_PROMPT
            asked[name] += not held
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("connection", "close")
            self.end_headers()
            self._say({"choices": [{"index": 0, "delta": {"role": "assistant", "content": "first "}}]})
            if held:
                go.wait(PATIENCE_S)
            usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
            self._say(
                {"choices": [{"index": 0, "delta": {"content": "last"}, "finish_reason": "stop"}], "usage": usage}
            )
            self.wfile.write(b"data: [DONE]\n\n")
            self.close_connection = True

        def _say(self, event: Object) -> None:
            about = {"id": "chat-1", "object": "chat.completion.chunk", "created": 1, "model": "chat"}
            self.wfile.write(f"data: {json.dumps(about | event)}\n\n".encode())
            self.wfile.flush()

        def _whole(self, content: Object) -> None:
            text = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Nothing on the terminal."""

    with serving(Handler) as port:
        yield port


def body(prompt: str) -> Object:
    return {"model": "chat", "stream": True, "messages": [{"role": "user", "content": prompt}]}


def post(url: str, prompt: str) -> int:
    return httpx.post(f"{url}{CHAT}", json=body(prompt), timeout=PATIENCE_S, trust_env=False).status_code


def gauge(text: str, name: str) -> float:
    return float(re.findall(rf"^{name} (\S+)$", text, re.MULTILINE)[0])


def complaints(log: Path) -> list[str]:
    """Errors that a picker has logged, each kind once."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return sorted({f"{each['msg']}: {each['error']}" for each in lines if each.get("level") == "error"})


def _text(url: str) -> str:
    return httpx.get(url, timeout=PATIENCE_S, trust_env=False).text


def _status(url: str) -> int:
    try:
        return httpx.get(url, timeout=PATIENCE_S, trust_env=False).status_code
    except httpx.TransportError:
        return 0
