"""Full-text search over the shipped docs: an SQLite FTS5 table in memory, built once when the demo agent is built.

``demo`` wraps it in a tool; ``markdown`` cuts the files, ``terms`` reads the question. A lookup is a few short reads
under one lock, so the one connection can be asked from any thread.
"""

import sqlite3
import weakref
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from threading import Lock

from roadworthy.agents.excerpt import excerpt
from roadworthy.agents.markdown import sections, without_tables
from roadworthy.agents.terms import content_words, synonyms

_SCHEMA = "CREATE VIRTUAL TABLE section USING fts5(parents, heading, prose, whole, tokenize='porter unicode61')"
_RANK = "SELECT rowid, -bm25(section, 1.5, 6.0, 0.7, 0.3) FROM section WHERE section MATCH ?"
_SYNONYM_WEIGHT = 0.5
# For a heading that asks just what was asked.
_SAME_QUESTION_WEIGHT = 2.0
_PASSAGE_CHARACTERS = 2000
# Pages for newcomers answer a newcomer's question better than a list of settings or pages for contributors do.
_PAGE_WEIGHTS = {
    "README.md": 1.3,
    "docs/budgets.md": 0.8,
    "docs/configuration.md": 0.8,
    "docs/prices.md": 0.6,
    "docs/tour.md": 0.6,
    "docs/benchmarks.md": 0.6,
    "docs/adr": 0.6,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A part of the docs that speaks of a query. ``source`` is ``file#anchor``, ``title`` the headings down to it."""

    source: str
    title: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    path: str
    anchor: str
    title: str
    text: str
    topic: frozenset[str]
    weight: float


class DocsIndex:
    """The searchable docs. Building reads every file once; afterwards nothing touches the disk."""

    def __init__(self, root: Path | None) -> None:
        # One connection for all threads: an in-memory database belongs to its connection. The lock guards it.
        self._connection = sqlite3.connect(":memory:", check_same_thread=False)
        # An agent is never told that it is no longer needed, and SQLite wants to be closed.
        weakref.finalize(self, self._connection.close)
        self._lock = Lock()
        self._rows: list[_Row] = []
        self._connection.execute(_SCHEMA)
        for path, markdown in _pages(root):
            self._add(path, markdown)

    def __len__(self) -> int:
        return len(self._rows)

    def search(self, query: str, *, limit: int = 3) -> list[Passage]:
        """Find the passages that speak of ``query``, best first; none when half of its words are nowhere together."""
        words = content_words(query)
        scores: defaultdict[int, float] = defaultdict(float)
        covered: defaultdict[int, int] = defaultdict(int)
        with self._lock:
            for word in words:
                for rowid, score in self._score(word).items():
                    scores[rowid] += score
                    covered[rowid] += 1
        enough = (len(words) + 1) // 2
        ranked = sorted(
            (rowid for rowid in scores if covered[rowid] >= enough),
            key=lambda rowid: (-scores[rowid] * self._weight(rowid, words, covered[rowid]), rowid),
        )
        return [self._passage(self._rows[rowid - 1], words) for rowid in ranked[:limit]]

    def _score(self, word: str) -> dict[int, float]:
        """Score each section by the better of the word itself and, at half weight, what the docs may call it."""
        best: dict[int, float] = {}
        for form, weight in ((word, 1.0), *((s, _SYNONYM_WEIGHT) for s in synonyms(word))):
            # A quoted FTS5 string is only ever a phrase: nothing in it can be an operator.
            phrase = '"' + form.replace('"', '""') + '"'
            found: Iterator[tuple[int, float]] = self._connection.execute(_RANK, (phrase,))
            for rowid, score in found:
                best[rowid] = max(best.get(rowid, 0.0), score * weight)
        return best

    def _weight(self, rowid: int, words: list[str], covered: int) -> float:
        row = self._rows[rowid - 1]
        same = _SAME_QUESTION_WEIGHT if row.topic == frozenset(words) else 1.0
        return row.weight * same * (covered / len(words)) ** 2

    def _add(self, path: str, markdown: str) -> None:
        for section in sections(markdown, name=Path(path).stem):
            titles = (*section.parents, section.heading)
            self._rows.append(
                _Row(
                    path=path,
                    anchor=section.anchor,
                    title=" > ".join(titles),
                    text=section.text,
                    topic=frozenset(content_words(section.heading)),
                    weight=_weight(path),
                )
            )
            self._connection.execute(
                "INSERT INTO section(rowid, parents, heading, prose, whole) VALUES (?, ?, ?, ?, ?)",
                (
                    len(self._rows),
                    " ".join(section.parents),
                    section.heading,
                    without_tables(section.text),
                    section.text,
                ),
            )

    @staticmethod
    def _passage(row: _Row, words: list[str]) -> Passage:
        text = excerpt(row.text, words, budget=_PASSAGE_CHARACTERS)
        return Passage(source=f"{row.path}#{row.anchor}".rstrip("#"), title=row.title, text=text)


def find_docs() -> Path | None:
    """Find the folder that holds ``README.md`` and ``docs/``: inside the installed package, else the source checkout.

    Returns None when neither is there (a stripped install): the demo then says that it has no docs.
    """
    shipped = Path(str(resources.files("roadworthy"))) / "_docs"
    checkout = Path(__file__).resolve().parents[3]
    if shipped.is_dir():
        return shipped
    return checkout if (checkout / "pyproject.toml").is_file() else None


def _pages(root: Path | None) -> Iterator[tuple[str, str]]:
    """Yield (path relative to ``root``, text) of ``README.md`` and ``docs/``, or of all pages without a ``docs/``."""
    if root is None or not root.is_dir():
        return
    docs = root / "docs"
    pages = [root / "README.md", *sorted(docs.rglob("*.md"))] if docs.is_dir() else sorted(root.rglob("*.md"))
    for page in pages:
        if page.is_file():
            yield page.relative_to(root).as_posix(), page.read_text(encoding="utf-8", errors="replace")


def _weight(path: str) -> float:
    return next((weight for prefix, weight in _PAGE_WEIGHTS.items() if path.startswith(prefix)), 1.0)
