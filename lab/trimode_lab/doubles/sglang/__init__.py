"""A stub of SGLang's server, for tests and for trying pools on a machine without a GPU."""
