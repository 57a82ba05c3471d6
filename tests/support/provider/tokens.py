"""The fake provider's deterministic token count: four characters are one token."""

CHARS_PER_TOKEN = 4


def count_tokens(text: str) -> int:
    """Tokens in `text`, rounded up."""
    return -(-len(text) // CHARS_PER_TOKEN)


def split_tokens(text: str) -> tuple[str, ...]:
    """`text` in pieces of one token each, so that a stream cut after n deltas has cost n tokens."""
    return tuple(text[start : start + CHARS_PER_TOKEN] for start in range(0, len(text), CHARS_PER_TOKEN))
