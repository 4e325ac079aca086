"""What a reconciliation knows: children, pods, Ray clusters and the routers' answers."""
