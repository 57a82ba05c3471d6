"""``roadworthy migrate``: bring the database to the schema of this version, before the servers that need it start.

Safe beside servers, of the version before too, and beside itself: who comes second waits and finds it done.
"""

from roadworthy.cli.environment import load_settings
from roadworthy.cli.output import say


def migrate() -> None:
    """Bring the database to this version's schema, beside running servers. A start on SQLite does it by itself."""
    from roadworthy.database import migrate_database
    from roadworthy.storage.folder import DataFolder

    settings = load_settings()
    done = migrate_database(settings, DataFolder(settings.data_dir.absolute()))
    if done.before == done.after:
        say(f"{done.name} has the schema {done.after}: nothing to do")
    else:
        say(f"{done.name} went from {done.before or 'nothing'} to the schema {done.after}")
