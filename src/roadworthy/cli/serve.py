"""serve"""


def serve() -> None:
    """D"""
