"""What the chart takes from the models: `make crd` runs this, and a test keeps both equal.

Belongs here: the chart's copy of the CustomResourceDefinition, and the part of `values.schema.json` that describes
`settings`. The rest of that schema is written by hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trimode_api.crd import CRD_FILE
from trimode_operator.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "charts" / "trimode"
CRD_SOURCE = ROOT / "crds" / CRD_FILE
CRD_COPY = CHART / "files" / CRD_FILE
VALUES_SCHEMA = CHART / "values.schema.json"


def values_schema(current: dict[str, Any]) -> dict[str, Any]:
    """The schema of the chart's values with the part about `settings` as the operator's model has it."""
    settings = Settings.model_json_schema(by_alias=True, ref_template="#/definitions/settings/{model}")
    models = settings.pop("$defs", {})
    return {
        **current,
        "properties": {**current["properties"], "settings": settings},
        "definitions": {**current["definitions"], "settings": models},
    }


def main() -> None:
    CRD_COPY.write_bytes(CRD_SOURCE.read_bytes())
    schema = values_schema(json.loads(VALUES_SCHEMA.read_text()))
    VALUES_SCHEMA.write_text(json.dumps(schema, indent=2) + "\n")


if __name__ == "__main__":
    main()
