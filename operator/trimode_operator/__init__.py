"""The Kubernetes operator: reconciles a `NemotronDeployment` into Ray Serve workers and routers.

Empty so far: the resource and its CRD are in `trimode_api`, and one machine is served by `trimode up`.
"""
