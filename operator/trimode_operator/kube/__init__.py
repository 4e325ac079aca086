"""The Kubernetes API: requests, watches, caches, the Lease, the work queue."""
