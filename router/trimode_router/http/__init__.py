"""HTTP/1.1 on both sides of the splice: clients, replicas, and the bytes between them."""
