"""Who may use the router: keys, tenants, certificates, and their reload."""
