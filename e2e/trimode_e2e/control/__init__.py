"""A control plane: where its binaries come from, how it starts, how it ends.

`provide` is the entrance: an existing cluster (TRIMODE_KUBECONFIG), envtest's binaries (KUBEBUILDER_ASSETS), or
our own build from Debian's source package, kept in a cache folder.
"""
