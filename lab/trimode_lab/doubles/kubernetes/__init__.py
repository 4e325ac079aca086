"""Small stand-ins for what the operator talks to, for its tests and for experiments."""
