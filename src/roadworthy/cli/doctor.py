"""doctor"""


def doctor() -> None:
    """D"""
