"""Adapters of the model: where sessions are opened (`endpoint`), and one session's socket (`connection`)."""
