"""What keeps a fleet's pods from running, in words for people.

Pure reading of pods' statuses. KubeRay's statuses only count workers: an image that cannot be pulled, a
missing Secret or a container killed for memory show in the pod's own status only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

STUCK = (
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "CrashLoopBackOff",
)
"""Reasons of a waiting container that waiting alone does not mend."""
KILLED = "OOMKilled"
UNPLACED = ("PodScheduled", "False", "Unschedulable")
"""A condition's type, status and reason."""
LINES_MAX, WORDS_MAX = 4, 300
Pod = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PodsSeen:
    """`failing`: containers that cannot start or do not stay. `unplaced`: pods that no node takes. One line each."""

    failing: tuple[str, ...] = ()
    unplaced: tuple[str, ...] = ()


def pods_seen(pods: Iterable[Pod]) -> PodsSeen:
    """Each problem once, with the first of the pods that have it; pods that are going count no more."""
    failing: list[tuple[Pod, str]] = []
    unplaced: list[tuple[Pod, str]] = []
    for pod in pods:
        # They may take their whole grace, 660 s and more, and their containers end one by one.
        if "deletionTimestamp" in pod["metadata"]:
            continue
        status = pod.get("status") or {}
        for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
            # Its `lastState` stays for as long as the pod does: once it is ready again, that is history.
            if container.get("ready"):
                continue
            name, waiting = container["name"], (container.get("state") or {}).get("waiting") or {}
            # Now, or before it was last restarted.
            ends = [(container.get(state) or {}).get("terminated") or {} for state in ("state", "lastState")]
            if any(end.get("reason") == KILLED for end in ends):
                failing.append(
                    (pod, f"container {name} was killed for memory: it needs more than its limit ({KILLED})")
                )
            elif waiting.get("reason") in STUCK:
                words = f"container {name}: {waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
                failing.append((pod, words))
        unplaced += [
            (pod, f"no node takes it: {condition.get('message', '')}".rstrip(": "))
            for condition in status.get("conditions") or ()
            if (condition["type"], condition["status"], condition.get("reason")) == UNPLACED
        ]
    return PodsSeen(_lines(failing), _lines(unplaced))


def _lines(found: Iterable[tuple[Pod, str]]) -> tuple[str, ...]:
    """The same words of several pods are one line."""
    names: dict[str, list[str]] = {}
    for pod, words in found:
        names.setdefault(words[:WORDS_MAX], []).append(pod["metadata"]["name"])
    lines = []
    for words, pods in names.items():
        more = f" and {len(pods) - 1} more" if len(pods) > 1 else ""
        lines.append(f"pod {min(pods)}{more}: {words}")
    return tuple(sorted(lines)[:LINES_MAX])
