"""What the demo agent says: quotes from search results, and plain words about what it is and is not.

``extractive`` streams it; ``demo``'s tool produces the results it reads (a JSON list of passages).
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from roadworthy.agents.excerpt import excerpt
from roadworthy.agents.terms import content_words, mentions

_QUOTE_CHARACTERS = 1800
_SHORT_CHARACTERS = 160

_WHAT_IT_IS = (
    "I am Roadworthy's demo agent. There is no language model behind me: I search the docs that come with Roadworthy "
    "and quote what I find. So I cost nothing."
)
_NOTHING = "I found nothing about that in Roadworthy's docs."
_UPGRADE = "Set ANTHROPIC_API_KEY, or ROADWORTHY_MODEL=provider:model, and restart to talk to a real model."
_SIGNATURE = "(Demo agent: quoted from the docs by search, no language model.)"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    source: str
    title: str
    text: str


def introduction() -> str:
    """Answer a greeting, "what are you?", or a message without readable text."""
    return (
        f"Hello. {_WHAT_IT_IS}\n\nAsk me something like: What is Roadworthy? How do I cancel a run? "
        f"How does authentication work?\n\n{_UPGRADE}"
    )


def answer(question: str, results: list[str]) -> str:
    """Answer ``question`` from the search tool's ``results``, each a JSON list of passages or an error text."""
    found = [passage for result in results for passage in _parse(result)]
    if not found:
        return f"{_NOTHING}\n\n{_WHAT_IT_IS} So I cannot answer anything else.\n\n{_UPGRADE}"
    words = content_words(question)
    best, *others = found
    parts = [_quote(best, words)]
    # A heading with one line below it is rarely the whole answer: the next passage joins in if it is about all of it.
    if len(best.text) < _SHORT_CHARACTERS and others and mentions(others[0].text, words) == len(words):
        parts.append(_quote(others.pop(0), words))
    if others:
        parts.append(f"See also: {', '.join(passage.source for passage in others)}")
    return "\n\n".join([*parts, _SIGNATURE])


def _quote(passage: _Found, words: list[str]) -> str:
    text = excerpt(passage.text, words, budget=_QUOTE_CHARACTERS)
    colon = "" if passage.title.endswith("?") else ":"
    return f"{passage.title}{colon}\n\n{text}\n\nSource: {passage.source}"


def _parse(result: str) -> Iterable[_Found]:
    """Read what ``search_docs`` returned. An error text, or anything that is not its JSON, counts as nothing found."""
    try:
        passages: object = json.loads(result)
    except ValueError:
        return
    if not isinstance(passages, list):
        return
    for passage in passages:
        match passage:
            case {"source": str(source), "title": str(title), "text": str(text)}:
                yield _Found(source=source, title=title, text=text)
            case _:
                continue
