"""Reading a resource: every mistake is named with its place."""

from pathlib import Path

import pytest

from trimode_api.errors import InvalidInput
from trimode_cli.errors import BadInput
from trimode_cli.up.load import MAX_BYTES, load, parse

GOOD = """
apiVersion: trimode.dev/v1alpha1
kind: NemotronDeployment
metadata: {name: tiny}
spec:
  model: {uri: "tiny://"}
  pools:
  - {name: flex, modes: [AR, SelfSpeculation]}
"""


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
        (GOOD + "---\n" + GOOD, "x.yaml: 2 documents"),
        ("- 1\n", "x.yaml: a list"),
        ("hello", "x.yaml: a text"),
        ("a: !!python/object:os.system {}", "could not determine a constructor"),
    ],
)
def test_what_is_no_single_mapping_is_refused(text: str, words: str) -> None:
    with pytest.raises(BadInput) as error:
        parse(text, "x.yaml")
    assert words in str(error.value)


def test_all_problems_of_a_resource_are_named_with_the_file() -> None:
    text = GOOD.replace("modes: [AR, SelfSpeculation]", "modes: [AR, Fast], colour: red")
    with pytest.raises(InvalidInput) as error:
        parse(text, "x.yaml")
    said = str(error.value)
    assert said.startswith("x.yaml has 2 problems")
    assert "spec.pools[0].modes[1]" in said
    assert "spec.pools[0].colour: unknown field" in said


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
