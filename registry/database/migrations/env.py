"""Alembic's entry point: runs the migrations on the connection that `engine.migrate` passes in."""

from alembic import context

from registry.database.schema import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
)
with context.begin_transaction():
    context.run_migrations()
