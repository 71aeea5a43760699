"""Alembic's entry point, which applies the migrations on the connection that `database.py` opened."""

from __future__ import annotations

from alembic import context

from phoneagent.store.schema import metadata

# SQLite can roll back a change of its schema as well, once transactions are begun by us and not by its driver.
context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
