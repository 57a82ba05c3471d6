"""Called by Alembic with the connection that ``storage/schema.py`` opened; runs the revisions in one transaction."""

from alembic import context
from sqlalchemy import Connection

from roadworthy.storage.tables import metadata


def _run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()


_run(context.config.attributes["connection"])
