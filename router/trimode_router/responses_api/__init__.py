"""`/v1/responses`, carried out as chat completions: replicas, and servers of others, need not know it."""
