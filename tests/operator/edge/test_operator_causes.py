"""Why a pool does not run: the one line that matters of what Serve says, in Serve's own forms."""

from __future__ import annotations

from typing import Any

import pytest

from trimode_operator.observe.observations import ray_of

REPLICA = """The deployment failed to start 3 times in a row. This may be due to a problem with its constructor or \
initial health check failing. See controller logs for details. Error:
\x1b[36mray::ServeReplica:flex:flex.initialize_and_get_metadata()\x1b[39m (pid=29101, ip=127.0.0.1)
  File "/x/ray/serve/_private/replica.py", line 1928, in initialize
    raise RuntimeError(traceback.format_exc()) from None
RuntimeError: Traceback (most recent call last):
  File "/x/trimode_workers/replica/source.py", line 37, in model_folder
trimode_workers.errors.SourceError: model file:///no/such: there is no folder /no/such here

The above exception was the direct cause of the following exception:

  File "/x/trimode_workers/replica/source.py", line 39, in model_folder
    raise EngineFailed(str(exc)) from exc
trimode_workers.process.client.EngineFailed: model file:///no/such: there is no folder /no/such here"""
BUILD = """Deploying app 'flex' failed with exception:
Traceback (most recent call last):
  File "/x/trimode_workers/app.py", line 92, in build
    check_source(given.engine.model)
trimode_workers.process.client.EngineFailed: model s3://bucket/x: allowed are hf://OWNER/NAME or tiny://
"""


def failed(**application: Any) -> tuple[str, ...]:
    service = {
        "metadata": {"generation": 1},
        "status": {"activeServiceStatus": {"applicationStatuses": {"flex": application}}},
    }
    ray = ray_of(service)
    assert ray is not None
    return ray.failed


@pytest.mark.parametrize(
    ("message", "deployment", "said"),
    [
        (
            "Failed to update the deployments ['flex'].",
            REPLICA,
            "flex DEPLOY_FAILED: model file:///no/such: there is no folder /no/such here",
        ),
        (BUILD, "", "flex DEPLOY_FAILED: model s3://bucket/x: allowed are hf://OWNER/NAME or tiny://"),
        ("Something else.", "", "flex DEPLOY_FAILED: Something else."),
        ("", "", "flex DEPLOY_FAILED"),
    ],
)
def test_the_cause_of_a_failure(message: str, deployment: str, said: str) -> None:
    deployments = {"flex": {"status": "DEPLOY_FAILED", "message": deployment}}
    assert failed(status="DEPLOY_FAILED", message=message, serveDeploymentStatuses=deployments) == (said,)


def test_what_runs_has_not_failed() -> None:
    assert failed(status="RUNNING", message="") == ()
    assert failed(status="DEPLOYING", message="") == ()
