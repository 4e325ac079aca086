"""Effects: children applied and deleted, orders to routers, status and Events written."""
