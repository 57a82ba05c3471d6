"""The server's log: one line a record on standard error, JSON or, on a terminal, readable text.

``cli`` calls ``configure_logs`` once, before anything else is imported that logs. Records of structlog and of the
standard library (uvicorn, alembic, an agent's own) take the same steps: context, time, traceback as text, redaction,
rendering. Those of the server's own structlog loggers take them without the standard library, which would cost as much
again: there is one for every run. Standard output stays free for what a command answers.
"""

import json
import logging
import sys
from collections.abc import Iterable, MutableMapping
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import Processor, ProcessorReturnValue

from roadworthy.telemetry.redaction import Redaction

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "json", "console"]

_OWN = "roadworthy"
_JSON = json.JSONEncoder(ensure_ascii=False)

# Clients of providers log whole requests, texts and headers included, when asked for more than warnings.
_WARNINGS_ONLY = (
    "aiosqlite",
    "alembic",
    "anthropic",
    "asyncio",
    "google",
    "httpcore",
    "httpx",
    "langchain",
    "langgraph",
    "langsmith",
    "openai",
    "uvicorn",
    "urllib3",
)


def configure_logs(
    *,
    level: LogLevel = "info",
    log_format: LogFormat = "auto",
    stream: TextIO | None = None,
    secrets: Iterable[str] = (),
) -> None:
    """Send every record of the process to ``stream`` (default: standard error). May be called again; the last wins.

    ``secrets``: exact values that must not appear in any record, tracebacks included.
    """
    target = stream if stream is not None else sys.stderr
    console = log_format == "console" or (log_format == "auto" and target.isatty())
    chain = _chain()
    finish = _Finish(Redaction(secrets), _console(target) if console else _json)
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=chain,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, finish],
        )
    )
    _route_standard_library(handler, level)
    structlog.configure(
        processors=[*chain, finish.own],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Loggers(handler),
        cache_logger_on_first_use=False,
    )


class _Lines:
    """One of the server's own loggers, which structlog has filtered by level: takes finished lines."""

    def __init__(self, name: str, handler: "logging.StreamHandler[TextIO]") -> None:
        self.name = name
        self._handler = handler

    def write(self, line: str) -> None:
        """Write a line. Nobody fails because nobody can read the log any more."""
        handler = self._handler
        handler.acquire()
        try:
            handler.stream.write(line + handler.terminator)
            handler.flush()
        except (OSError, ValueError):
            return
        finally:
            handler.release()

    debug = info = warning = error = critical = write


class _Loggers:
    """What structlog makes loggers with: lines for the server's own, the standard library for any other."""

    def __init__(self, handler: "logging.StreamHandler[TextIO]") -> None:
        self._handler = handler
        self._others = structlog.stdlib.LoggerFactory()

    def __call__(self, *args: str) -> "_Lines | logging.Logger":
        if args and args[0].partition(".")[0] == _OWN:
            return _Lines(args[0], self._handler)
        return self._others(*args)


def _chain() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # The plain traceback: frames without their local variables, which hold keys and texts.
        structlog.processors.format_exc_info,
        structlog.processors.StackInfoRenderer(),
    ]


def _console(stream: TextIO) -> Processor:
    return structlog.dev.ConsoleRenderer(
        colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=24
    )


def _route_standard_library(handler: logging.Handler, level: LogLevel) -> None:
    least = logging.getLevelNamesMapping()[level.upper()]
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Foreign debug records are never wanted: they hold what callers and providers said.
    root.setLevel(max(least, logging.INFO))
    logging.getLogger(_OWN).setLevel(least)
    for name in _WARNINGS_ONLY:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(max(least, logging.WARNING))
    logging.captureWarnings(capture=True)


def _json(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    return _JSON.encode(event)


class _Finish:
    """The last step: nothing is written that has not passed the redaction."""

    def __init__(self, redaction: Redaction, render: Processor) -> None:
        self._redaction = redaction
        self._render = render

    def __call__(self, logger: object, method: str, event: MutableMapping[str, Any]) -> str:
        """The line."""
        return str(self._render(logger, method, {name: self._redaction.value(value) for name, value in event.items()}))

    def own(
        self,
        logger: Any,  # noqa: ANN401 -- of either kind
        method: str,
        event: MutableMapping[str, Any],
    ) -> ProcessorReturnValue:
        """The line for the server's own loggers; others' records come here again through the standard library."""
        if isinstance(logger, _Lines):
            return self(logger, method, event)
        return structlog.stdlib.ProcessorFormatter.wrap_for_formatter(logger, method, event)
