"""What a GPU shows in its first minutes: measurements of the engine that need no checkpoint."""
