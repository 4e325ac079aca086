"""Reading a resource: every mistake is named with its place."""

from pathlib import Path

import pytest
import yaml

from trimode_api.errors import InvalidInput
from trimode_local.errors import BadInput
from trimode_local.resource_file import MAX_BYTES, load, parse

GOOD = """
apiVersion: trimode.dev/v1alpha1
kind: NemotronDeployment
metadata: {name: tiny}
spec:
  model: {uri: "tiny://"}
  pools:
  - {name: flex, modes: [AR, SelfSpeculation]}
"""

NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: llm}\n"
LAUGHS = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))
CHAIN = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 200))
"""Written flat: only with its aliases followed is it deep."""


def test_a_good_file_is_a_resource(tmp_path: Path) -> None:
    file = tmp_path / "d.yaml"
    file.write_text(GOOD)
    assert load(str(file)).metadata.name == "tiny"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1, 2", "x.yaml:1:9: not valid YAML"),
        ("a: 1\na: 2\n", "x.yaml:2:1: not valid YAML: key 'a' is given twice"),
        ("", "x.yaml: empty"),
        ("# only a comment\n", "x.yaml: empty"),
        (GOOD + "---\n" + GOOD, "x.yaml: 2 times NemotronDeployment"),
        (
            NAMESPACE + "---\n" + NAMESPACE,
            "x.yaml: 2 objects and no NemotronDeployment among them (Namespace, Namespace)",
        ),
        (GOOD + "---\n- 1\n", "x.yaml: a list"),
        ("kind: List\nitems: []\n", "x.yaml: empty"),
        ("[" * 3000 + "]" * 3000, "x.yaml:1:101: not valid YAML: nested more than 100 levels deep"),
        ("- " * 3000 + "1", "nested more than 100 levels deep"),
        ("a: &a {b: *a}", "x.yaml:1:11: not valid YAML: an alias within what it stands for"),
        ("a: &a [1, [*a]]", "an alias within what it stands for"),
        (LAUGHS, "more than 100000 values, aliases followed"),
        (CHAIN, "nested more than 100 levels deep"),
        ("- 1\n", "x.yaml: a list"),
        ("hello", "x.yaml: a text"),
        ("a: !!python/object:os.system {}", "could not determine a constructor"),
    ],
)
def test_what_is_no_single_mapping_is_refused(text: str, words: str) -> None:
    with pytest.raises(BadInput) as error:
        parse(text, "x.yaml")
    assert words in str(error.value)


PLAIN = {
    "1e3": "1000", "1.e3": "1000", "1024.0": "1024", "0x400": "1024", "02000": "1024", "0o2000": "1024",
    "0b1000000": "64", "1_024": "1024", "089": "89", "1_0_0": "100",
}  # fmt: skip


@pytest.mark.parametrize(("written", "number"), PLAIN.items())
def test_numbers_are_read_as_kubectl_reads_them(written: str, number: str) -> None:
    """Each was given to kubectl 1.37, which sent the number to the server."""
    spec = parse(f"{GOOD}  engine: {{maxContextTokens: {written}}}\n", "x.yaml").spec
    assert spec.engine.max_context_tokens == int(number)


@pytest.mark.parametrize("written", ["2024-01-01", "2024-01-01T00:00:00Z", "12:30", "1:1:1", "=", "yEs", "1.2.3", "_1"])
def test_text_is_read_as_kubectl_reads_it(written: str) -> None:
    text = GOOD.replace('uri: "tiny://"', f'uri: "tiny://", revision: {written}')
    assert parse(text, "x.yaml").spec.model.revision == written


@pytest.mark.parametrize(
    ("written", "suspended"), [("y", True), ("Off", False), ("TRUE", True), ("n", False), ("", False)]
)
def test_switches_are_read_as_kubectl_reads_them(written: str, suspended: bool) -> None:
    assert parse(f"{GOOD}  suspend: {written}\n", "x.yaml").spec.suspend is suspended


def test_a_fraction_of_a_core_wants_quotes_as_on_a_cluster() -> None:
    text = GOOD.replace("]}", "], resources: {cpu: %s}}")
    assert parse(text % "'0.5'", "x.yaml").spec.pools[0].resources.cpu == "0.5"
    with pytest.raises(InvalidInput, match=r"cpu: 0\.5 is not allowed: a number with a fraction is written in quotes"):
        parse(text % "0.5", "x.yaml")


def test_all_problems_of_a_resource_are_named_with_the_file() -> None:
    text = GOOD.replace("modes: [AR, SelfSpeculation]", "modes: [AR, Fast], colour: red")
    with pytest.raises(InvalidInput) as error:
        parse(text, "x.yaml")
    said = str(error.value)
    assert said.startswith("x.yaml has 2 problems")
    assert "spec.pools[0].modes[1]" in said
    assert "spec.pools[0].colour: unknown field" in said


def listed(*objects: str, kind: str = "List") -> str:
    """What `kubectl get -o yaml` writes."""
    items = [{**yaml.safe_load(each), "status": {}} for each in objects]
    return yaml.safe_dump({"apiVersion": "v1", "kind": kind, "items": items, "metadata": {"resourceVersion": ""}})


@pytest.mark.parametrize(
    "text",
    [
        f"{NAMESPACE}---\n{GOOD}",
        f"{GOOD}---\n{NAMESPACE}",
        listed(GOOD),
        listed(NAMESPACE, GOOD),
        listed(GOOD, kind="NemotronDeploymentList"),
        f"{listed(NAMESPACE)}---\n{GOOD}",
    ],
)
def test_the_one_resource_is_found_among_other_objects(text: str) -> None:
    assert parse(text, "x.yaml").spec == parse(GOOD, "x.yaml").spec


def test_the_problems_of_the_one_resource_are_told_by_its_own_paths() -> None:
    with pytest.raises(InvalidInput, match=r"spec\.pools\[0\]\.colour: unknown field"):
        parse(NAMESPACE + "---\n" + GOOD.replace("]}", "], colour: red}"), "x.yaml")


def test_aliases_and_merges_are_followed() -> None:
    text = GOOD.replace("- {name: flex,", "- &flex {name: flex,") + "  - {<<: *flex, name: more}\n"
    first, second = parse(text, "x.yaml").spec.pools
    assert (second.name, second.modes) == ("more", first.modes)


def test_trailing_documents_without_content_do_no_harm() -> None:
    assert parse(GOOD + "---\n", "x.yaml").metadata.name == "tiny"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        load(str(tmp_path / "none.yaml"))
    with pytest.raises(BadInput, match="Is a directory"):
        load(str(tmp_path))
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff\n")
    with pytest.raises(BadInput, match="not text in UTF-8"):
        load(str(tmp_path / "latin.yaml"))
    (tmp_path / "big.yaml").write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(BadInput, match="is below"):
        load(str(tmp_path / "big.yaml"))
