"""What a resource's status says, worked out by pure functions from one observation."""
