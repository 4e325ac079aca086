"""The vocabulary that all parts of trimode share: the resource, the wire, modes and errors. Imports pydantic only."""
