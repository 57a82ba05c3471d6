"""The services of users' data behind the web side; ``fakes.py`` puts them beside the others."""

from roadworthy.services.user_export import UserExports
from roadworthy.services.users import UserErasures


class NoUserExports(UserExports):
    """Nobody asks for them here."""

    def __init__(self) -> None:
        pass


class NoUserErasures(UserErasures):
    """Nobody asks for them here."""

    def __init__(self) -> None:
        pass
