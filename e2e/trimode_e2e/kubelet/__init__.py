"""A node without containers: pods with our node selector run as local processes.

Real controllers make the pods (Deployment, ReplicaSet) and find them (Endpoints); here is what a node would add:
command, environment, volumes from ConfigMaps and Secrets, readiness, preStop, grace. Each pod has an address of its
own on the loopback device. Not here: images, cgroups, liveness probes, init containers, NetworkPolicies.
"""
