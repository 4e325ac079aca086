"""KubeRay's controller, played: RayServices get a real Ray on the loopback interface and a status as documented.

`shape` decides what a change means, `status` what is said, `controller` watches and acts, `cluster` and
`ray_process` are one Ray cluster each, in a process of its own. Not here: pods, Services and the RayCluster object of
a cluster, upgrades by steps, fault tolerance of the head.
"""
