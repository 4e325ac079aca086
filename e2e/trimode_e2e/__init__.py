"""The harness of the cluster tests: a real control plane, and doubles of the controllers that need a machine park.

`control` finds, builds, starts and ends kube-apiserver and its companions. `kuberay` plays KubeRay's controller with
a real local Ray, `kubelet` plays the nodes of a Deployment with local processes. Not part of the wheel.
"""
