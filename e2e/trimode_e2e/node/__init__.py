"""One real node for the control plane: containerd, kubelet, kube-proxy and the scheduler, and real pods on them.

All of it lives in namespaces of its own (processes, mounts, network), whose end is the end of every shim, mount,
bridge and iptables rule in them, also when a test run is killed. Needs root. What a machine lacks is said as Missing.
"""
