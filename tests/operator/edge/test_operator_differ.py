"""Whether a live object is as it should be."""

from __future__ import annotations

from typing import Any

import pytest

from trimode_operator.apply.diff import DIGEST_ANNOTATION, differences, with_digest


@pytest.mark.parametrize(
    ("desired", "live", "paths"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, []),
        ({"a": 1}, {"a": 2}, ["a"]),
        ({"a": {"b": 1}}, {"a": {}}, ["a.b"]),
        ({"a": {}}, {}, []),
        ({"a": []}, {"a": None}, []),
        ({"a": None}, {}, []),
        ({"a": False}, {}, ["a"]),
        ({"a": [1, 2]}, {"a": [1, 2]}, []),
        ({"a": [1, 2]}, {"a": [2, 1]}, ["a[0]", "a[1]"]),
        ({"a": [1]}, {"a": [1, 2]}, ["a"]),
        ({"c": [{"name": "x", "v": 1}]}, {"c": [{"name": "w"}, {"name": "x", "v": 1, "more": 2}]}, []),
        ({"c": [{"name": "x", "v": 1}]}, {"c": [{"name": "x", "v": 2}]}, ["c[x].v"]),
        ({"c": [{"name": "x"}]}, {"c": [{"name": "w"}]}, ["c[x]"]),
        ({"spec": {"selector": {"a": "b"}}}, {"spec": {"selector": {"a": "b", "c": "d"}}}, ["spec.selector"]),
        ({"c": [{"k": 1}, {"k": 2}]}, {"c": [{"k": 1}]}, ["c"]),
    ],
)
def test_differences(desired: dict[str, Any], live: dict[str, Any], paths: list[str]) -> None:
    assert list(differences(desired, live)) == paths


def test_a_field_that_is_no_longer_wanted_shows_in_the_digest() -> None:
    old = with_digest({"kind": "X", "metadata": {"name": "x"}, "spec": {"a": 1, "b": 2}})
    new = with_digest({"kind": "X", "metadata": {"name": "x"}, "spec": {"a": 1}})
    assert list(differences(new, old)) == [f"metadata.annotations.{DIGEST_ANNOTATION}"]


def test_the_digest_leaves_other_annotations_and_the_manifest_alone() -> None:
    manifest = {"kind": "X", "metadata": {"name": "x", "annotations": {"a": "b"}}}
    marked = with_digest(manifest)
    assert marked["metadata"]["annotations"].keys() == {"a", DIGEST_ANNOTATION}
    assert manifest == {"kind": "X", "metadata": {"name": "x", "annotations": {"a": "b"}}}
    assert with_digest(manifest) == marked
