"""Small stand-ins for what the operator talks to, for its own tests and for whoever tries something with it."""
