"""`trimode up` and `trimode apply`: one resource, served on one machine."""
