"""Chooses the turn for each call: rules first, then the queue, then the directives in the user's text."""

from collections import deque
from threading import Lock

from tests.support.provider.directives import follow_directives
from tests.support.provider.messages import MessagesRequest
from tests.support.provider.script import Rule, Script, Turn


class Playbook:
    """The script in force. Tests replace it from their thread while the server's thread reads it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._queue: deque[Turn] = deque()
        self._rules: list[_RuleInUse] = []

    def load(self, script: Script) -> None:
        """Replace the whole script."""
        with self._lock:
            self._queue = deque(script.turns)
            self._rules = [_RuleInUse(rule) for rule in script.rules]

    def next_turn(self, request: MessagesRequest) -> Turn:
        """The turn to play, which is thereby used up unless its rule repeats."""
        text = request.last_user_text()
        position = sum(message.role == "assistant" for message in request.since_last_user_text())
        with self._lock:
            for rule in self._rules:
                if rule.matches(text, position):
                    return rule.take(position)
            if self._queue:
                return self._queue.popleft()
        return follow_directives(request)


class _RuleInUse:
    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._used = 0

    def matches(self, text: str, position: int) -> bool:
        if self._rule.when not in text:
            return False
        match self._rule.pick:
            case "in_order":
                return self._used < len(self._rule.turns)
            case "for_ever":
                return bool(self._rule.turns)
            case "by_position":
                return position < len(self._rule.turns)

    def take(self, position: int) -> Turn:
        if self._rule.pick == "by_position":
            return self._rule.turns[position]
        turn = self._rule.turns[min(self._used, len(self._rule.turns) - 1)]
        self._used += 1
        return turn
