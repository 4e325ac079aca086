"""The node: its own object with a heartbeat, and the pods that belong on it.

Belongs here: watching pods, binding them, names for cluster DNS. What a pod is doing is `pod`'s.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trimode_e2e.api import Api, Object, Refused
from trimode_e2e.kubelet.addresses import Addresses
from trimode_e2e.kubelet.names import Names
from trimode_e2e.kubelet.pod import Pod

NAME = "trimode-e2e"
SELECTOR = {"trimode.dev/node": "e2e"}
"""Pods with this node selector are ours; no other node has the label."""
HEARTBEAT_S = 10.0

_log = logging.getLogger(__name__)


class Node:
    """Runs from `start` to `stop`; its files go below `folder`. Plays pods of the namespaces that are `played`."""

    def __init__(self, api: Api, folder: Path, names: Names, played: Callable[[str], bool]) -> None:
        self.pods: dict[str, Pod] = {}
        self._api = api
        self._folder = folder
        self._names = names
        self._played = played
        self._addresses = Addresses()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Raises Missing where pods could have no addresses here."""
        self._addresses.give_back(self._addresses.take())
        self._api.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NAME, "labels": SELECTOR}})
        self._beat()
        for work in (self._heartbeat, self._follow):
            thread = threading.Thread(target=work, name=f"node {work.__name__}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End every pod's process, and the node."""
        self._stopping.set()
        for pod in tuple(self.pods.values()):
            pod.kill()
        for thread in self._threads:
            thread.join(15)
        self._addresses.close()
        with contextlib.suppress(Exception):
            self._api.delete("v1", "Node", NAME)

    def _heartbeat(self) -> None:
        while not self._stopping.wait(HEARTBEAT_S):
            with contextlib.suppress(Exception):  # the server may be away
                self._beat()

    def _beat(self) -> None:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ready = {"type": "Ready", "status": "True", "reason": "Plays", "message": "", "lastHeartbeatTime": now}
        room = {"cpu": "1000", "memory": "1000Gi", "pods": "1000"}
        status = {"conditions": [ready | {"lastTransitionTime": now}], "capacity": room, "allocatable": room}
        self._api.patch_status("v1", "Node", NAME, None, status)

    def _follow(self) -> None:
        for pods in self._api.snapshots("v1", "Pod", self._stopping):
            ours = [pod for pod in pods if self._is_ours(pod)]
            for pod in ours:
                try:
                    self._take(pod)
                except Exception:  # noqa: BLE001 - the next snapshot has it again
                    _log.exception("pod %s", pod["metadata"]["name"])
            there = {pod["metadata"]["uid"] for pod in ours}
            for uid, running in tuple(self.pods.items()):
                if uid not in there:
                    running.delete()

    def _is_ours(self, pod: Object) -> bool:
        return pod["spec"].get("nodeSelector") == SELECTOR and self._played(pod["metadata"]["namespace"])

    def _take(self, pod: Object) -> None:
        metadata = pod["metadata"]
        running = self.pods.get(metadata["uid"])
        if metadata.get("deletionTimestamp"):
            if running is not None:
                running.delete()
            else:
                self._forget(metadata["namespace"], metadata["name"], metadata["uid"])
        elif running is None and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
            self._begin(pod)

    def _begin(self, pod: Object) -> None:
        namespace, name, uid = (pod["metadata"][key] for key in ("namespace", "name", "uid"))
        if not pod["spec"].get("nodeName"):
            with contextlib.suppress(Refused):  # a real scheduler may have been quicker
                self._api.bind(name, namespace, NAME)
        address = self._addresses.take()
        folder = self._folder / uid
        folder.mkdir(parents=True, exist_ok=True)
        self.pods[uid] = Pod(
            pod,
            folder,
            address,
            look_up=lambda kind, wanted: self._api.get("v1", kind, wanted, namespace),
            set_status=lambda status: self._tell(namespace, name, status),
            gone=lambda: self._gone(namespace, name, uid, address),
        )

    def _tell(self, namespace: str, name: str, status: dict[str, Any]) -> None:
        with contextlib.suppress(Exception):  # the pod may be gone, the server away: it is told again soon
            self._api.patch_status("v1", "Pod", name, namespace, status)
        self._names.update(tuple(self.pods.values()))

    def _gone(self, namespace: str, name: str, uid: str, address: str) -> None:
        self.pods.pop(uid, None)
        self._addresses.give_back(address)
        self._names.update(tuple(self.pods.values()))
        self._forget(namespace, name, uid)

    def _forget(self, namespace: str, name: str, uid: str) -> None:
        """Tell the API server that nothing of the pod is left, if it is still the same pod."""
        if self._stopping.is_set():
            return
        with contextlib.suppress(Exception):
            live = self._api.get("v1", "Pod", name, namespace)
            if live is not None and live["metadata"]["uid"] == uid and live["metadata"].get("deletionTimestamp"):
                self._api.delete("v1", "Pod", name, namespace, grace_s=0)
