"""What to quote of a section: whole when it is short, else its blocks that speak of the question.

Used by the demo's search tool (what the model gets to read) and by its model (what the caller gets to read).
"""

from roadworthy.agents.markdown import blocks
from roadworthy.agents.terms import mentions

_GAP = "…"
_TABLE_HEAD = 2


def excerpt(text: str, words: list[str], *, budget: int) -> str:
    """Quote at most about ``budget`` characters of ``text``, the blocks that mention most of ``words`` first.

    Order is kept, gaps after the first quoted block are marked with an ellipsis, and long tables are reduced to the
    rows that mention a word.
    """
    if len(text) <= budget:
        return text
    parts = [_matching_rows(block, words) for block in blocks(text)]
    ranked = sorted(range(len(parts)), key=lambda i: (-mentions(parts[i], words), i))
    chosen: set[int] = set()
    left = budget
    for i in ranked:
        if len(parts[i]) <= left:
            chosen.add(i)
            left -= len(parts[i])
    if not chosen:
        return _cut(parts[ranked[0]], budget)
    return _join(parts, chosen)


def _join(parts: list[str], chosen: set[int]) -> str:
    lines: list[str] = []
    for i, part in enumerate(parts):
        if i in chosen:
            lines.append(part)
        elif lines and lines[-1] != _GAP:
            lines.append(_GAP)
    return "\n\n".join(lines)


def _matching_rows(block: str, words: list[str]) -> str:
    rows = block.splitlines()
    if len(rows) <= _TABLE_HEAD or not rows[0].lstrip().startswith("|"):
        return block
    head, body = rows[:_TABLE_HEAD], rows[_TABLE_HEAD:]
    best = max(mentions(row, words) for row in body)
    kept = [row for row in body if best and mentions(row, words) == best]
    return "\n".join([*head, *(kept or body)])


def _cut(block: str, budget: int) -> str:
    short = block[:budget].rsplit("\n", 1)[0] if "\n" in block[:budget] else block[:budget].rsplit(" ", 1)[0]
    closing = "\n```" if short.lstrip().startswith("```") else ""
    return f"{short} {_GAP}{closing}"
