"""What happens to the fleet whose statuses are recorded.

Belongs here: the sequences, each of which begins and ends with a fleet that has come to rest.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trimode_e2e import kuberay
from trimode_e2e.control import provide
from trimode_e2e.crds import ROOT
from trimode_e2e.helm import SMALL_VALUES, Helm, helm_program
from trimode_e2e.recording.recorder import Recorder
from trimode_e2e.world import SMALL, World, pool, tiny

FOLDER = ROOT / "tests" / "operator" / "recorded"
COMMAND = "PYTHONPATH=e2e python -m trimode_e2e record"
NAME = "tiny"
PATIENCE_S = 300.0
FLEX = pool("flex")
OTHER = pool("flex", resources={**SMALL, "cpu": "110m"})
NO_IMAGE = {"type": "SGLang", "image": "registry.invalid/none:1"}
"""The domain is kept free for names that do not resolve."""

Say = Callable[[str], None]


class Fleet:
    """The one that things happen to."""

    def __init__(self, world: World, namespace: str) -> None:
        self.world, self.namespace = world, namespace

    def first_start(self) -> None:
        self.world.api.create(tiny(NAME, self.namespace, pools=[FLEX]))
        self._at_rest()

    def bounds(self) -> None:
        for count in (2, 1):
            self._patch(pools=[pool("flex", replicas={"min": count, "max": count})])
            self._at_rest()
            self._until_workers(count)

    def pool_added(self) -> None:
        """The change of what Serve runs that KubeRay makes in place."""
        self._patch(pools=[FLEX, pool("more", modes=["AR"])])
        self._at_rest()

    def upgrade(self) -> None:
        first = self.world.active_cluster(NAME, self.namespace)
        self._patch(pools=[OTHER])
        self._until(lambda: self.world.active_cluster(NAME, self.namespace) != first, "another cluster serves")
        self._at_rest()
        self._until(lambda: len(self._clusters()) == 1, "the first cluster is gone")

    def image_that_cannot_be_pulled(self) -> None:
        plain = self.world.get(NAME, self.namespace)["spec"]["engine"]
        modes = {"modes": ["AR"], "blockLengths": None}
        self._patch(engine={**plain, **NO_IMAGE}, pools=[{**OTHER, **modes}])
        self._until(lambda: self._waits_for("ImagePullBackOff"), "kubelet gives up on the image for now")
        self._back(engine={**plain, "type": None, "image": None})

    def model_that_is_not_there(self) -> None:
        self._patch(model={"uri": "file:///nowhere"})
        self._until(lambda: "DEPLOY_FAILED" in str(self._service_status()), "Serve says that it failed")
        self._back(model={"uri": "tiny://"})

    def suspend(self) -> None:
        self._patch(suspend=True)
        self.world.until_condition(NAME, self.namespace, "Suspended")
        self._until(lambda: not self.world.api.listed("v1", "Pod", self.namespace), "no pod is left")

    def resume(self) -> None:
        self._patch(suspend=False)
        self._at_rest()

    def _back(self, **spec: Any) -> None:
        """By the old file, which stays with the cluster that serves."""
        self._patch(**spec, pools=[OTHER])
        self._at_rest()
        self._until(lambda: len(self._clusters()) == 1, "the other cluster is gone")

    def _patch(self, **spec: Any) -> None:
        self.world.patch(NAME, self.namespace, spec)

    def _at_rest(self) -> None:
        self.world.until_condition(NAME, self.namespace, "Ready", timeout_s=PATIENCE_S)
        self._until(lambda: self.world.active_cluster(NAME, self.namespace), "KubeRay calls a cluster active")

    def _until(self, look: Callable[[], Any], what: str) -> None:
        self.world.api.until(look, what, PATIENCE_S)

    def _until_workers(self, count: int) -> None:
        self._until(lambda: len(self.world.pods(self.namespace, component="worker")) == count, f"{count} workers")

    def _clusters(self) -> dict[str, Any]:
        return self.world.ray_clusters(NAME, self.namespace)

    def _service_status(self) -> Any:
        service = self.world.api.get("ray.io/v1", "RayService", NAME, self.namespace) or {}
        return service.get("status")

    def _waits_for(self, reason: str) -> bool:
        return any(reason in str(each.get("status")) for each in self.world.pods(self.namespace, component="worker"))


SEQUENCES: tuple[tuple[str, Callable[[Fleet], None]], ...] = (
    ("first-start", Fleet.first_start),
    ("bounds", Fleet.bounds),
    ("pool-added", Fleet.pool_added),
    ("upgrade", Fleet.upgrade),
    ("no-image", Fleet.image_that_cannot_be_pulled),
    ("no-model", Fleet.model_that_is_not_there),
    ("suspend", Fleet.suspend),
    ("resume", Fleet.resume),
)


def record(say: Say, folder: Path = FOLDER) -> None:
    """Write every sequence into `folder`, on a cluster of its own (8 minutes). Raises Missing and Broken."""
    with provide.real() as cluster, tempfile.TemporaryDirectory(prefix="trimode-") as work:
        say(f"recording on {cluster.stands_on}")
        world = World.create(cluster, Path(work), with_ours=False)
        Helm(helm_program(), cluster.kubeconfig).install(
            ROOT / "charts" / "trimode", SMALL_VALUES, "--wait", "--create-namespace",
            release="trimode", namespace="trimode-system",
        )  # fmt: skip
        namespace = world.namespace()
        recorder, fleet = Recorder(cluster.kubeconfig, namespace), Fleet(world, namespace)
        recorder.start()
        folder.mkdir(parents=True, exist_ok=True)
        about = {"kuberay": kuberay.version(), "cluster": cluster.stands_on, "command": COMMAND}
        for name, happens in SEQUENCES:
            recorder.begin()
            happens(fleet)
            say(f"{name}: {recorder.written(folder / f'{name}.json', {'sequence': name, **about})} steps")
