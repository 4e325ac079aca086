"""The operator as a process: options, logs, dependencies, health."""
