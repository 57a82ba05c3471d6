"""The words of a question that are worth searching for, with a few that the docs use instead.

Used by ``docs_index`` to query and by ``excerpt`` to choose what to quote. Nothing here learns or
guesses: a few small tables.
"""

import re

_WORD = re.compile(r"\w+", re.UNICODE)
_MAX_TERMS = 24
_MIN_STEM = 4
_LONGEST_SUFFIX = 3
# On every page, so it tells nothing apart unless it is all that was asked about.
_OWN_NAME = "roadworthy"
# "What can you not do?": the one question in which a negation is the topic. "t" is what is left of "can't".
_NEGATIONS = frozenset({"not", "cannot", "t"})

_STOP_WORDS = frozenset(
    """
    a able about after ain all also am an and any are aren as at be been being but by can cannot could couldn did
    didn do does doesn doing don done each else for from get give got had happen happened happens has hasn have
    haven he her here him his how i if in into is isn it its just like make makes may me mean means might more most
    much must my need no not now of off on one only or our out over own please possible same say see she should show
    so some such support supported supports tell than that the their them then there these they this those through
    to too under up us use used using very want was wasn way we were what whats when where which while who whom
    whose why will with within without won work working works would wouldn you your yours
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
    "back": ("backup",),
    "backup": ("back up",),
    "backups": ("back up",),
    "begin": ("start", "getting started"),
    "bot": ("agent",),
    "concurrency": ("slots", "concurrent", "queue"),
    "config": ("configuration", "setting"),
    "configure": ("configuration", "setting"),
    "conversation": ("thread",),
    "cost": ("usage", "tokens"),
    "costs": ("usage", "tokens"),
    "crash": ("restart", "recover", "kill"),
    "crashed": ("restart", "recover", "kill"),
    "crashes": ("restart", "recover", "kill"),
    "database": ("sqlite", "storage"),
    "deploy": ("production", "container"),
    "dies": ("restart", "recover", "kill"),
    "env": ("environment", "configuration"),
    "gui": ("web interface", "operator's page"),
    "history": ("thread", "messages"),
    "human": ("interrupt", "resume"),
    "install": ("pip", "getting started"),
    "job": ("run",),
    "kill": ("cancel", "restart"),
    "launch": ("serve", "run"),
    "limitations": ("does not do",),
    "limit": ("timeout", "maximum"),
    "login": ("authentication", "key"),
    "memory": ("thread",),
    "options": ("configuration", "settings"),
    "parameters": ("configuration", "settings"),
    "password": ("key", "authentication"),
    "price": ("cost", "prices"),
    "pricing": ("cost", "prices"),
    "quickstart": ("getting started",),
    "reconnect": ("last event id", "replay"),
    "session": ("thread",),
    "settings": ("configuration",),
    "sse": ("stream",),
    "ssl": ("tls", "https"),
    "stop": ("cancel",),
    "streaming": ("stream",),
    "task": ("run",),
    "token": ("key", "usage"),
    "variables": ("environment", "configuration"),
}


def content_words(text: str) -> list[str]:
    """List the distinct words of ``text`` that carry meaning, lower-case, in order, at most 24.

    Empty for a greeting, for "what can you do?" and for text without letters or digits. Roadworthy's own name counts
    when it is all that was asked about, and a "not" when nothing else but that name was.
    """
    words = dict.fromkeys(word.lower() for word in _WORD.findall(text))
    kept = [w for w in words if w not in _STOP_WORDS and w not in _SMALL_TALK and (len(w) > 1 or w.isdigit())]
    topic = [w for w in kept if w != _OWN_NAME]
    if topic:
        return topic[:_MAX_TERMS]
    return ["not"] if _NEGATIONS & words.keys() else kept


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
