"""Effects on the cluster: children applied, deleted, told; status and Events written."""
