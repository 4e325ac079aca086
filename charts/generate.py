"""What the chart takes from code: `make crd` writes it, and a test keeps both equal.

Belongs here: the chart's copy of the CustomResourceDefinition, and the part of `values.schema.json` that describes
`settings`; the rest of that schema is written by hand. Dashboards are in `dashboards`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dashboards

from trimode_api.crd import CRD_FILE
from trimode_operator.plan.settings import Settings

CHARTS = Path(__file__).resolve().parent
CHART = CHARTS / "trimode"
CRD = CHARTS.parent / "crds" / CRD_FILE
VALUES_SCHEMA = CHART / "values.schema.json"


def files() -> dict[Path, str]:
    """What belongs into each generated file."""
    schema = values_schema(json.loads(VALUES_SCHEMA.read_text()))
    found = {CHART / "files" / CRD_FILE: CRD.read_text(), VALUES_SCHEMA: json.dumps(schema, indent=2) + "\n"}
    for dashboard in dashboards.DASHBOARDS:
        text = json.dumps(dashboards.document(dashboard), indent=1) + "\n"
        found[CHART / "dashboards" / f"{dashboard.uid}.json"] = text
    return found


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
    for path, content in files().items():
        path.write_text(content)


if __name__ == "__main__":
    main()
