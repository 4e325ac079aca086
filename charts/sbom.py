"""The image's Python distributions as a bill of materials (CycloneDX 1.6, JSON): `make sbom`.

Made offline. Which distributions, in which versions, with which digests, is what the lock files beside this say; their
licences and what needs what is read from this environment, where they are installed. Debian's packages, which the
image's base brings, are in the attestation that the builder of the image writes.
"""

from __future__ import annotations

import sys
import tomllib
import uuid
from collections.abc import Iterable, Sequence
from importlib import metadata

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from lock import REST, ROOT, TORCH, Locked, locked, requirements
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def bom(pyproject: str, pins: Sequence[Locked]) -> Bom:
    """What trimode's image holds; trimode itself is its subject. The same input gives the same serial number."""
    project = tomllib.loads(pyproject)["project"]
    made = Bom()
    subject = _component(project["name"], project["version"], ComponentType.APPLICATION)
    subject.licenses.add(LicenseFactory().make_from_string(project["license"]))
    made.metadata.component = subject
    parts = {canonicalize_name(pin.name): _part(pin) for pin in pins}
    made.components.update(parts.values())
    made.register_dependency(subject, _needed(requirements(pyproject), parts))
    for name, part in parts.items():
        try:
            made.register_dependency(part, _needed(metadata.requires(name) or (), parts))
        except metadata.PackageNotFoundError:
            made.register_dependency(part)  # of torch with CUDA, where this environment has the build for CPUs
    made.serial_number = uuid.uuid5(uuid.NAMESPACE_URL, f"{subject.purl} {sorted(map(str, pins))}")
    return made


def text(made: Bom) -> str:
    """As JSON. Raises ValueError where CycloneDX's schema refuses it."""
    written = JsonV1Dot6(made).output_as_string(indent=1)
    if (wrong := JsonStrictValidator(SchemaVersion.V1_6).validate_str(written)) is not None:
        raise ValueError(f"not CycloneDX 1.6: {wrong}")
    return written + "\n"


def _part(pin: Locked) -> Component:
    part = _component(pin.name, pin.version, ComponentType.LIBRARY)
    # As references to what is distributed: a component's own `hashes` would say that all of them are of one file.
    for digest in pin.digests:
        hashes = [HashType(alg=HashAlgorithm.SHA_256, content=digest)]
        where = XsUri(str(part.purl))
        part.external_references.add(
            ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=where, hashes=hashes)
        )
    try:
        about = metadata.metadata(pin.name)
    except metadata.PackageNotFoundError:
        return part
    part.description = about["Summary"]
    if licence := _licence(about):
        part.licenses.add(LicenseFactory().make_from_string(licence))
    return part


def _component(name: str, version: str, kind: ComponentType) -> Component:
    purl = PackageURL("pypi", name=canonicalize_name(name), version=version)
    return Component(name=name, version=version, type=kind, purl=purl, bom_ref=str(purl))


def _needed(needs: Iterable[str], parts: dict[str, Component]) -> list[Component]:
    """Those of the image's parts that these requirements name. Extras are passed over where they bring no part."""
    found = (canonicalize_name(Requirement(need).name) for need in needs)
    return [parts[name] for name in sorted(set(found) & parts.keys())]


def _licence(about: metadata.PackageMetadata) -> str:
    """As the metadata has it: an SPDX expression, else a classifier, else the older field where that is no text."""
    if expression := about.get("License-Expression"):
        return expression
    for each in about.get_all("Classifier") or ():
        if each.startswith("License :: OSI Approved :: "):
            return each.rpartition(" :: ")[2]
    named = about.get("License") or ""
    return "" if "\n" in named else named


if __name__ == "__main__":
    pins = [pin for file in (TORCH, REST) for pin in locked(file.read_text())]
    sys.stdout.write(text(bom((ROOT / "pyproject.toml").read_text(), pins)))
