"""Markdown cut into sections by heading: what ``docs_index`` puts into its search table.

A section holds the text between one heading and the next. Links become their text; images, comments and lists of
links (signposts to the pages that answer) go; code stays as it is.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_FENCE = re.compile(r"^\s{0,3}(```+|~~~+)")
_HEADING = re.compile(r"^(#{1,4})\s+(.+?)\s*#*\s*$")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_IMAGE = re.compile(r"\[?!\[[^\]]*\]\([^)]*\)(\]\([^)]*\))?")
_LINK = re.compile(r"\[([^\]]+)\]\([^)\s]+\)")
_SIGNPOST = re.compile(r"^\s*[*+-]\s+\[[^\]]+\]\([^)\s]+\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One heading and the text below it, up to the next heading.

    ``parents`` are the headings above it, outermost first; ``anchor`` is the one that code hosts give to the
    heading, empty for the text before the first one.
    """

    parents: tuple[str, ...]
    heading: str
    anchor: str
    text: str


def sections(markdown: str, *, name: str) -> list[Section]:
    """Cut ``markdown`` into its sections, in order, leaving out those without text of their own.

    Text before the first heading belongs to a section called ``name`` (the file's name).
    """
    found: list[Section] = []
    trail: list[tuple[int, str]] = [(0, name)]
    body: list[str] = []
    seen: dict[str, int] = {}

    def close() -> None:
        text = _plain(body)
        level, heading = trail[-1]
        anchor = _anchor(heading, seen) if level > 0 else ""
        if text:
            parents = tuple(title for depth, title in trail[:-1] if depth > 0)
            found.append(Section(parents=parents, heading=heading, anchor=anchor, text=text))
        body.clear()

    for line, is_code in _lines(_COMMENT.sub("", markdown)):
        heading = None if is_code else _HEADING.match(line)
        if heading is None:
            if is_code or not _SIGNPOST.match(line):
                body.append(line if is_code else _without_links(line))
            continue
        close()
        level = len(heading[1])
        while trail and trail[-1][0] >= level:
            trail.pop()
        trail.append((level, _without_links(heading[2]).replace("`", "")))
    close()
    return found


def blocks(text: str) -> list[str]:
    """Split a section's text at its blank lines into paragraphs, lists, tables and whole code blocks."""
    found: list[list[str]] = [[]]
    for line, is_code in _lines(text):
        if line.strip() or is_code:
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return ["\n".join(block) for block in found if block]


def without_tables(text: str) -> str:
    """Drop the rows of tables from a section's text: they name things, prose explains them."""
    return "\n".join(line for line, is_code in _lines(text) if is_code or not line.lstrip().startswith("|"))


def _lines(text: str) -> Iterator[tuple[str, bool]]:
    """Yield each line with whether it is part of a fenced code block (the fences included)."""
    fence: str | None = None
    for line in text.splitlines():
        mark = _FENCE.match(line)
        if fence is None:
            fence = mark[1] if mark else None
            yield line, mark is not None
            continue
        yield line, True
        if mark and mark[1].startswith(fence):
            fence = None


def _without_links(line: str) -> str:
    return _LINK.sub(r"\1", _IMAGE.sub("", line))


def _plain(lines: list[str]) -> str:
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in lines)).strip()


def _anchor(heading: str, seen: dict[str, int]) -> str:
    slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
    count = seen.get(slug, 0)
    seen[slug] = count + 1
    return slug if count == 0 else f"{slug}-{count}"
