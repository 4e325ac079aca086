"""The resource: what a user writes in a `NemotronDeployment`.

The parts of the spec are in `spec` and `serving`; rules over several fields are in `rules` and obeyed here, with
defaults filled in, as the API server does. The status is in `status`; the CRD's YAML is made from them by `crd`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError, PydanticUndefined, to_jsonable_python

from trimode_api.errors import InvalidInput, problems_of
from trimode_api.rule import AnyRule, Path
from trimode_api.rules import RULES
from trimode_api.serving import Dtype, EngineType, Pool
from trimode_api.spec import Spec, SwitchingMode, UpgradeStrategy
from trimode_api.values import Int, Name, ResourceName, SpecModel

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
            for finding in exc.errors():
                # In the form that lets it be raised again, beside what breaks rules.
                details = InitErrorDetails(type=finding["type"], loc=finding["loc"], input=finding["input"])
                if "ctx" in finding:
                    details["ctx"] = finding["ctx"]
                errors.append(details)
            spec = defaulted(Spec, data.get("spec") if isinstance(data, dict) else None)
        errors += [
            InitErrorDetails(
                type=PydanticCustomError("rule", "{rule}", {"rule": message}),
                loc=("spec", *path),
                input=value,
            )
            for path, message, value in broken(spec)
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


def broken(spec: Any, rules: Sequence[AnyRule] = RULES) -> Iterator[tuple[Path, str, Any]]:
    """(path from the spec, message, value) of each rule that the raw spec (defaults filled in) does not keep."""
    for rule in rules:
        for path, scope in _scopes(spec, rule.scope):
            try:
                for field, message in rule.breaches(scope):
                    value = scope
                    for part in field:
                        listed, mapped = isinstance(part, int), isinstance(value, dict)
                        value = value[part] if listed else value.get(part) if mapped else None
                    yield (*path, *field), message, value
            except (TypeError, KeyError, AttributeError, ValueError):
                continue  # malformed there: the schema's own findings say so


def _scopes(value: Any, scope: Path, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if not scope:
        yield path, value
    elif scope[0] == "*":
        for index, item in enumerate(value if isinstance(value, (list, tuple)) else ()):
            yield from _scopes(item, scope[1:], (*path, index))
    elif isinstance(value, dict) and scope[0] in value:
        yield from _scopes(value[scope[0]], scope[1:], (*path, scope[0]))


def defaulted(model: type[BaseModel], raw: Any) -> Any:
    """`raw` with the model's defaults filled in where fields are missing or null, as the API server would."""
    if not isinstance(raw, dict):
        return raw
    filled = {key: value for key, value in raw.items() if value is not None}
    for name, field in model.model_fields.items():
        key = field.alias or name
        if key not in filled:
            if field.default not in (PydanticUndefined, None):
                filled[key] = to_jsonable_python(field.default, by_alias=True, exclude_none=True)
        elif (inner := _model_in(field.annotation)) is not None:
            value = filled[key]
            filled[key] = [defaulted(inner, v) for v in value] if isinstance(value, list) else defaulted(inner, value)
    return filled


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, alone, optional or in a tuple."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (tuple, UnionType):
        return next((m for a in get_args(annotation) if (m := _model_in(a)) is not None), None)
    return None
