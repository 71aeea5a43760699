"""Adapters of the model: the servers that sessions are opened at (`endpoint`), and one session (`connection`)."""
