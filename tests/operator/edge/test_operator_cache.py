"""What the watches have told: the later state wins."""

from __future__ import annotations

from typing import Any

from trimode_operator.kube.cache import GONE_KEPT, Cache, Key, key_of, owned_by

KEY = Key("default", "nemo")


def resource(version: int, uid: str = "u1") -> dict[str, Any]:
    return {
        "kind": "NemotronDeployment",
        "metadata": {"name": "nemo", "namespace": "default", "uid": uid, "resourceVersion": str(version)},
    }


def child(version: int, name: str = "c", uid: str = "c1") -> dict[str, Any]:
    return {
        "kind": "ConfigMap",
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": uid,
            "resourceVersion": str(version),
            "labels": {"app.kubernetes.io/instance": "nemo"},
            "ownerReferences": [{"uid": "u1"}],
        },
    }


def test_news_name_the_resource_they_concern() -> None:
    cache = Cache()
    assert cache.put(resource(5)) == KEY
    assert cache.put(child(6)) == KEY
    assert cache.resources() == (KEY,)
    assert list(cache.children(KEY)) == [("ConfigMap", "c")]


def test_what_is_known_or_older_is_no_news() -> None:
    cache = Cache()
    cache.put(child(6))
    assert cache.put(child(6)) is None
    assert cache.put(child(5)) is None
    assert cache.put(child(7)) == KEY
    assert cache.children(KEY)["ConfigMap", "c"]["metadata"]["resourceVersion"] == "7"


def test_another_object_of_the_same_name_replaces_the_old_one() -> None:
    cache = Cache()
    cache.put(child(6, uid="old"))
    assert cache.put(child(5, uid="new")) == KEY
    assert cache.drop(child(9, uid="old")) is None  # the end of the old one, told late
    assert cache.children(KEY)["ConfigMap", "c"]["metadata"]["uid"] == "new"


def test_what_is_gone_is_gone() -> None:
    cache = Cache()
    cache.put(resource(1))
    cache.put(child(2))
    assert cache.drop(child(3)) == KEY
    assert cache.drop(child(3)) is None
    assert cache.drop(resource(4)) == KEY
    assert cache.resource(KEY) is None
    assert not cache._children  # nothing is kept of what is gone


def test_a_list_says_what_there_is_but_a_quicker_watch_is_believed() -> None:
    cache = Cache()
    cache.put(child(9, "quick"))
    cache.put(child(2, "gone"))
    cache.list_children(KEY, [child(8, "quick"), child(3, "new")])
    versions = {name: body["metadata"]["resourceVersion"] for (_, name), body in cache.children(KEY).items()}
    assert versions == {"quick": "9", "new": "3"}


def test_objects_without_our_label_belong_to_nobody() -> None:
    body = child(1)
    body["metadata"]["labels"] = None
    assert key_of(body) is None
    assert Cache().put(body) is None


def test_ownership_is_by_uid() -> None:
    assert owned_by(child(1), "u1")
    assert not owned_by(child(1), "u2")
    assert not owned_by({"metadata": {}}, "u1")


def test_the_answer_to_a_write_that_comes_after_the_end_brings_nothing_back() -> None:
    cache = Cache()
    cache.put(resource(1))
    cache.drop(resource(3))
    assert cache.put(resource(2)) is None
    assert cache.put(resource(9)) is None
    assert cache.resource(KEY) is None
    assert cache.put(resource(1, uid="another")) == KEY


def test_of_ends_only_the_latest_are_remembered() -> None:
    cache = Cache()
    for number in range(GONE_KEPT + 10):
        cache.drop(child(1, uid=f"c{number}"))
    assert len(cache._gone) == GONE_KEPT
