"""Where the settings come from: the process environment, then ``.env``, then the ``env`` of ``langgraph.json``.

Every command that needs settings starts with ``load_settings``. What the files add is exported to the process, because
the clients of model providers read their own variables; a variable that is already set is never changed.
"""

import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from roadworthy.domain.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic.fields import FieldInfo

    from roadworthy.settings import Settings

_PREFIX = "ROADWORTHY_"
_SECRETS = ("_API_KEY", "_ACCESS_KEY", "_TOKEN", "_SECRET", "_PASSWORD", "PGPASSWORD")
# A shorter value is more likely a word than a secret.
_SECRET_LENGTH = 8


def load_settings(target: str | None = None, *, folder: Path | None = None, **overrides: object) -> "Settings":
    """Export the files of ``folder`` (default: the current one), then read the settings.

    ``target``: what is served when it is not the ``langgraph.json``, which is then left alone. ``overrides``: values
    from the command line by field name; None means not given.

    Raises:
        ConfigError: one line for each variable that is wrong, or a file that cannot be read.
    """
    from pydantic import ValidationError

    from roadworthy.settings import Settings

    export_files(folder or Path(), with_project=target is None)
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # pyright: ignore[reportArgumentType] -- pydantic checks what the command line gave
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error))) from None


def export_files(folder: Path, *, with_project: bool = True) -> None:
    """Add the variables of ``.env`` and of ``langgraph.json`` in ``folder`` to the process environment.

    Raises:
        ConfigError: a file is there but cannot be read, or does not say what it should.
    """
    from dotenv import dotenv_values

    from roadworthy.runtimes.langgraph.project import PROJECT_FILE, read_project

    file = folder / ".env"
    try:
        _export(dotenv_values(file) if file.is_file() else {})
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    if with_project and (folder / PROJECT_FILE).is_file():
        _export(read_project(folder / PROJECT_FILE).env)


def env_name(name: str, field: "FieldInfo") -> str:
    """Name of the environment variable behind a field of the settings."""
    from pydantic import AliasChoices

    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        return str(alias.choices[0])
    return f"{_PREFIX}{name.upper()}"


def explain(error: "ValidationError") -> Iterable[str]:
    """One line for each variable that is wrong: its name, what is wrong with it, what it is for."""
    from roadworthy.settings import Settings

    by_location = {location: name for name, location in _locations()}
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        message = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        name = by_location.get(str(problem["loc"][0])) if problem["loc"] else None
        if name is None:
            yield message
            continue
        field = Settings.model_fields[name]
        verb = "" if message.startswith("must") else "must be "
        yield f"{env_name(name, field)} {verb}{message}. {field.description}"


def unknown_variables(environment: Mapping[str, str] | None = None) -> Iterable[str]:
    """A sentence for each ``ROADWORTHY_…`` variable that no setting has, with the likely meaning: a mistyped limit
    would otherwise go unnoticed.
    """
    from roadworthy.settings import Settings

    known = {env_name(name, field) for name, field in Settings.model_fields.items()}
    for name in sorted(os.environ if environment is None else environment):
        if name.startswith(_PREFIX) and name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            yield f"{name} is no setting and has no effect{hint}"


def secret_values(environment: Mapping[str, str] | None = None) -> Iterable[str]:
    """What variables hold that are named like secrets, other programs' included: nothing of it belongs into a log."""
    for name, value in (os.environ if environment is None else environment).items():
        if name.endswith(_SECRETS) and len(value) >= _SECRET_LENGTH:
            yield value


def _locations() -> Iterable[tuple[str, str]]:
    """Pairs of a field's name and a name under which pydantic may report it."""
    from pydantic import AliasChoices

    from roadworthy.settings import Settings

    for name, field in Settings.model_fields.items():
        yield name, name
        if isinstance(field.validation_alias, AliasChoices):
            for choice in field.validation_alias.choices:
                yield name, str(choice)


def _export(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is not None:
            os.environ.setdefault(name, value)
