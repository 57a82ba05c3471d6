"""The server's log: one line a record on standard error, JSON or, on a terminal, readable text.

``cli`` calls ``configure_logs`` once, before anything else is imported that logs. Records of structlog and of the
standard library (uvicorn, alembic, an agent's own) take the same way: context, time, traceback as text, redaction,
rendering. Standard output stays free for what a command answers.
"""

import logging
import sys
from collections.abc import Iterable, MutableMapping
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import Processor

from roadworthy.telemetry.redaction import Redaction

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "json", "console"]

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
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=chain,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _Redact(Redaction(secrets)),
                _console(target) if console else structlog.processors.JSONRenderer(ensure_ascii=False),
            ],
        )
    )
    _route_standard_library(handler, level)
    structlog.configure(
        processors=[*chain, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


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
    logging.getLogger("roadworthy").setLevel(least)
    for name in _WARNINGS_ONLY:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(max(least, logging.WARNING))
    logging.captureWarnings(capture=True)


class _Redact:
    """The last processor before the renderer."""

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction

    def __call__(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {name: self._redaction.value(value) for name, value in event.items()}
