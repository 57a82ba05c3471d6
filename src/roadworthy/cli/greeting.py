"""What ``roadworthy serve`` says once it can serve: what, where, the first key, and a line to try.

Plain text on standard output, never wrapped: the key and the curl line are there to be copied.
"""

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from roadworthy import __version__

_QUESTIONS = {"demo": "How do I cancel a run?"}
_QUESTION = "Hello, what can you do?"
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- compared with, not bound to


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """``agents``: names, the default first. ``admin_key``: set when it was made just now."""

    host: str
    port: int
    agents: Sequence[str]
    data_dir: Path
    auth: bool
    admin_key: str | None

    def lines(self) -> Iterable[str]:
        """The text, line by line."""
        default, *others = self.agents
        also = f", also {', '.join(others)}" if others else ""
        yield f"Roadworthy {__version__} serves the agent {default}{also}"
        yield f"on {url(self.host, self.port)}, with its data in {self.data_dir}"
        yield ""
        if not self.auth:
            yield "Authentication is off: every program on this machine is the user `local`."
        elif self.admin_key is not None:
            yield "The admin key, shown only this once:"
            yield self.admin_key
        else:
            yield "Keys are made with: roadworthy keys create --user NAME"
        yield ""
        yield "Try it:" if not self.auth or self.admin_key else "Try it with your key:"
        yield self._curl(default)
        yield ""

    def _curl(self, agent: str) -> str:
        target = url(_EVERYWHERE.get(self.host, self.host), self.port) + "/agent/invoke"
        parts = ["curl", "-sS", shlex.quote(target)]
        if self.auth:
            # Double quotes, so that the shell fills in a key that we cannot know.
            header = "Authorization: Bearer "
            parts += ["-H", shlex.quote(header + self.admin_key) if self.admin_key else f'"{header}$KEY"']
        body = json.dumps({"message": _QUESTIONS.get(agent, _QUESTION)})
        parts += ["-H", shlex.quote("Content-Type: application/json"), "-d", shlex.quote(body)]
        return " ".join(parts)


def url(host: str, port: int) -> str:
    """Address of the server as a client writes it."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
