"""The Kubernetes operator: reconciles a `NemotronDeployment` into Ray Serve workers and routers.

`plan` and what status says are pure; everything else is an edge. kopf watches, a work queue reconciles each resource
by one worker at a time (`reconcile`), and only the holder of a Lease reconciles at all.
"""
