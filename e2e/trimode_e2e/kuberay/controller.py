"""Watches RayServices and has them played.

Belongs here: the thread that watches. What is done for one of them is `service`'s.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from trimode_e2e.api import Api
from trimode_e2e.kuberay.service import API_VERSION, KIND, Service


class Controller:
    """Runs from `start` to `stop`. Plays RayServices of the namespaces that are `played`.

    `environment` is for Ray's processes, beside what the pod templates say.
    """

    def __init__(self, api: Api, environment: dict[str, str], played: Callable[[str], bool]) -> None:
        self.services: dict[tuple[str, str], Service] = {}
        self._api = api
        self._environment = environment
        self._played = played
        self._ended: list[Service] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="kuberay", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End every cluster."""
        self._stopping.set()
        self._thread.join(15)
        for service in self.services.values():
            service.end()
        for service in (*self.services.values(), *self._ended):
            service.join()

    def service(self, namespace: str, name: str) -> Service:
        """The one that plays the RayService. Raises KeyError where there is none."""
        return self.services[namespace, name]

    def _follow(self) -> None:
        for items in self._api.snapshots(API_VERSION, KIND, self._stopping):
            found = {
                (item["metadata"]["namespace"], item["metadata"]["name"]): item
                for item in items
                if self._played(item["metadata"]["namespace"])
            }
            for key, service in tuple(self.services.items()):
                item = found.get(key)
                if item is None or item["metadata"]["uid"] != service.uid:
                    service.end()
                    self._ended.append(self.services.pop(key))
            for key, item in found.items():
                if key in self.services:
                    self.services[key].wanted = item
                else:
                    self.services[key] = Service(self._api, item, self._environment)
