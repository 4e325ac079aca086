"""The frame of every child: name, labels, owner."""

from __future__ import annotations

import base64
from typing import Any

from trimode_api.resource import GROUP, KIND, VERSION
from trimode_operator.plan.model import Manifest, Owner
from trimode_operator.plan.names import TOKEN_KEY, Names, labels


def child(api_version: str, kind: str, name: str, owner: Owner, component: str | None = None) -> dict[str, Any]:
    """An object with metadata only. It goes when the resource goes."""
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": owner.namespace,
            "labels": labels(owner.name, component),
            "ownerReferences": [
                {
                    "apiVersion": f"{GROUP}/{VERSION}",
                    "kind": KIND,
                    "name": owner.name,
                    "uid": owner.uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
    }


def service_account(owner: Owner, names: Names) -> Manifest:
    """Routers and workers ask the API server nothing, so they get no credentials for it."""
    return {
        **child("v1", "ServiceAccount", names.service_account, owner),
        "automountServiceAccountToken": False,
    }


def secret(owner: Owner, names: Names, token: str) -> Manifest:
    """The fleet's shared token."""
    return {
        **child("v1", "Secret", names.secret, owner),
        "type": "Opaque",
        "data": {TOKEN_KEY: base64.b64encode(token.encode()).decode()},
    }
