"""The resource: what a user writes in a `NemotronDeployment`.

The parts of the spec are in `spec` and `serving`, rules over several fields in `rules`, the status in `status`; the
CRD's YAML is made from them by `crd`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from trimode_api import checks
from trimode_api.errors import InvalidInput, problems_of
from trimode_api.fields import Int, SpecModel
from trimode_api.serving import Dtype, EngineType, Pool
from trimode_api.spec import Spec, SwitchingMode, UpgradeStrategy
from trimode_api.values import Name, ResourceName

__all__ = [
    "GROUP",
    "KIND",
    "VERSION",
    "Dtype",
    "EngineType",
    "Metadata",
    "NemotronDeployment",
    "Pool",
    "Spec",
    "SwitchingMode",
    "UpgradeStrategy",
]

GROUP = "trimode.dev"
VERSION = "v1alpha1"
KIND = "NemotronDeployment"


def _texts(value: Any) -> Any:
    if not isinstance(value, dict) or not all(isinstance(text, str) for pair in value.items() for text in pair):
        raise ValueError("must map text to text; put numbers and yes, no, true, false in quotes")
    return value


Labels = Annotated[dict[str, str], BeforeValidator(_texts)] | None


class Metadata(BaseModel):
    """The part of Kubernetes' object metadata that trimode reads; the rest passes."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: ResourceName
    namespace: Name = "default"
    generation: Int = Field(default=1, ge=0)
    labels: Labels = None
    annotations: Labels = None


class NemotronDeployment(SpecModel):
    """A tri-mode model behind one endpoint. Validation reports all problems together: shapes, bounds and rules."""

    api_version: Literal["trimode.dev/v1alpha1"]
    kind: Literal["NemotronDeployment"]
    metadata: Metadata
    spec: Spec
    status: Annotated[dict[str, Any] | None, Field(exclude=True)] = None

    @model_validator(mode="wrap")
    @classmethod
    def _obey_rules(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        errors: list[InitErrorDetails] = []
        model: Self | None = None
        try:
            model = handler(data)
            spec = model.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
        except ValidationError as exc:
            errors = [_again(finding) for finding in exc.errors()]
            spec = checks.defaulted(Spec, data.get("spec") if isinstance(data, dict) else None)
        errors += [
            InitErrorDetails(
                type=PydanticCustomError("rule", "{rule}", {"rule": message}),
                loc=("spec", *path),
                input=value,
            )
            for path, message, value in checks.broken(spec)
        ]
        if errors or model is None:
            raise ValidationError.from_exception_data(cls.__name__, errors)
        return model

    @classmethod
    def parse(cls, data: Any) -> Self:
        """The resource in `data` (as read from YAML or the API server), its pool sized by `spec.replicas` where set.

        Raises InvalidInput with every problem, each with its path and what is allowed.
        """
        try:
            found = cls.model_validate(data)
        except ValidationError as exc:
            raise InvalidInput(problems_of(exc), KIND) from exc
        return found.model_copy(update={"spec": found.spec.sized()})

    @property
    def served_name(self) -> str:
        """The name that clients put into `model`."""
        return self.spec.model.served_name or self.metadata.name


def _again(finding: Any) -> InitErrorDetails:
    """A finding in the form that lets it be raised again beside others."""
    details = InitErrorDetails(type=finding["type"], loc=finding["loc"], input=finding["input"])
    if "ctx" in finding:
        details["ctx"] = finding["ctx"]
    return details
