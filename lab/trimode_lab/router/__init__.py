"""The router under load: benchmarks, rivals, chaos."""
