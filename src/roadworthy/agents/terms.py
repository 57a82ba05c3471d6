"""The words of a question that are worth searching for, with a few that the docs use instead.

Used by ``docs_index`` to query and by ``excerpt`` to choose what to quote. Nothing here learns or
guesses: two small tables.
"""

import re

_WORD = re.compile(r"\w+", re.UNICODE)
_MAX_TERMS = 24
_MIN_STEM = 4
_LONGEST_SUFFIX = 3

_STOP_WORDS = frozenset(
    """
    a about after all also am an and any are as at be been being but by can could did do does doing done each
    else for from get give got had happen happened happens has have he her here him his how i if in into is it
    its just like make makes may me mean means might more most much must my need no not now of off on one only
    or our out over own please same say she should show so some such tell than that the their them then there
    these they this those through to too under up us use used using very want was way we were what whats when
    where which while who whom whose why will with within without would you your yours
    """.split()  # noqa: SIM905 -- a paragraph of words is easier to read than a list
)

_SMALL_TALK = frozenset(
    """
    afternoon bye cheers day evening goodbye good great greetings hello help hey hi hola morning nice ok okay ping
    sup test testing thank thanks there welcome yo
    """.split()  # noqa: SIM905 -- a paragraph of words is easier to read than a list
)

# The docs' word for what people often call otherwise (STYLE: one name for each thing).
_SYNONYMS: dict[str, tuple[str, ...]] = {
    "abort": ("cancel",),
    "auth": ("authentication", "key", "bearer"),
    "authenticate": ("auth", "key", "bearer"),
    "authentication": ("auth", "key", "bearer"),
    "authorization": ("auth", "key", "scope"),
    "begin": ("start", "getting started"),
    "bot": ("agent",),
    "concurrency": ("slots", "concurrent", "queue"),
    "config": ("configuration", "setting"),
    "configure": ("configuration", "setting"),
    "conversation": ("thread",),
    "cost": ("usage", "tokens"),
    "crash": ("restart", "recover", "kill"),
    "crashed": ("restart", "recover", "kill"),
    "crashes": ("restart", "recover", "kill"),
    "database": ("sqlite", "storage"),
    "dies": ("restart", "recover", "kill"),
    "env": ("environment", "configuration"),
    "history": ("thread", "messages"),
    "human": ("interrupt", "resume"),
    "install": ("pip", "getting started"),
    "job": ("run",),
    "kill": ("cancel", "restart"),
    "launch": ("serve", "run"),
    "limit": ("timeout", "maximum"),
    "login": ("authentication", "key"),
    "memory": ("thread",),
    "options": ("configuration", "settings"),
    "parameters": ("configuration", "settings"),
    "password": ("key", "authentication"),
    "quickstart": ("getting started",),
    "reconnect": ("last event id", "replay"),
    "session": ("thread",),
    "settings": ("configuration",),
    "sse": ("stream",),
    "stop": ("cancel",),
    "streaming": ("stream",),
    "task": ("run",),
    "token": ("key", "usage"),
    "variables": ("environment", "configuration"),
}


def content_words(text: str) -> list[str]:
    """List the distinct words of ``text`` that carry meaning, lower-case, in order, at most 24.

    Empty for a greeting, for "what can you do?" and for text without letters or digits.
    """
    words = dict.fromkeys(word.lower() for word in _WORD.findall(text))
    kept = [w for w in words if w not in _STOP_WORDS and w not in _SMALL_TALK and (len(w) > 1 or w.isdigit())]
    return kept[:_MAX_TERMS]


def synonyms(word: str) -> tuple[str, ...]:
    """Name the words or phrases that the docs may use instead of ``word``."""
    return _SYNONYMS.get(word, ())


def mentions(text: str, words: list[str]) -> int:
    """Count how many of ``words`` (or a synonym of them) occur in ``text`` in some inflection."""
    lowered = text.lower()
    present = set(_WORD.findall(lowered))
    return sum(any(_occurs(form, lowered, present) for form in (word, *synonyms(word))) for word in words)


def _occurs(form: str, lowered: str, present: set[str]) -> bool:
    if " " in form or "_" in form:
        return form in lowered
    stem = form[: max(_MIN_STEM, len(form) - _LONGEST_SUFFIX)]
    if len(form) < _MIN_STEM:
        return form in present or f"{form}s" in present
    return any(word.startswith(stem) for word in present)
