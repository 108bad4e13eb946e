"""The machinery in rooms: each imports only rooms below it, in the order that `pyproject.toml` states."""
