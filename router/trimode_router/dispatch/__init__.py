"""From a parsed request to a replica: admission, queue, connections."""
