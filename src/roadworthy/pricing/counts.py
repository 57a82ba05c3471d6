"""Makes token counts add up before they are priced.

``Tokens`` may come from any provider. A part larger than its whole would be priced below nothing, or not at all.
"""

from roadworthy.domain.usage import Tokens


def consistent(tokens: Tokens) -> Tokens:
    """The same counts with every whole at least as large as its parts, and none below zero: never cheaper."""
    write_1h = max(0, tokens.cache_write_1h)
    write = max(write_1h, tokens.cache_write)
    read = max(0, tokens.cache_read)
    reasoning = max(0, tokens.reasoning)
    return Tokens(
        input=max(read + write, tokens.input),
        output=max(reasoning, tokens.output),
        cache_read=read,
        cache_write=write,
        cache_write_1h=write_1h,
        reasoning=reasoning,
    )
