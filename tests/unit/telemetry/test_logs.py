import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from roadworthy.telemetry.logs import configure_logs

KEY = "rw_live_" + "x" * 50


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


class Log:
    def __init__(self) -> None:
        self.stream = io.StringIO()

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


@pytest.fixture
def log() -> Log:
    return Log()


def test_a_record_is_one_json_line_with_its_context(log: Log) -> None:
    configure_logs(log_format="json", stream=log.stream)
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        structlog.get_logger("roadworthy.run").info("run_finished", status="success", duration_ms=3, text="ä\n")
    (record,) = log.records()
    timestamp = record.pop("timestamp")
    assert timestamp.endswith("Z")
    assert record == {
        "event": "run_finished",
        "level": "info",
        "logger": "roadworthy.run",
        "request_id": "r-1",
        "status": "success",
        "duration_ms": 3,
        "text": "ä\n",
    }


def test_the_standard_library_and_warnings_take_the_same_way(log: Log) -> None:
    configure_logs(log_format="json", stream=log.stream)
    logging.getLogger("my_agent.tools").info("looked up %s", "the weather")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    agent, warning = log.records()
    assert (agent["event"], agent["logger"], agent["level"]) == ("looked up the weather", "my_agent.tools", "info")
    assert warning["logger"] == "py.warnings"


def test_a_traceback_keeps_its_frames_and_loses_secrets_and_variables(log: Log) -> None:
    secret = "hush" * 2
    configure_logs(log_format="json", stream=log.stream, secrets=[secret])

    def fail(argument: str) -> None:
        local = argument.upper()
        raise ValueError(f"refused {KEY} and {argument}, {len(local)} characters")

    try:
        fail(secret)
    except ValueError:
        logging.getLogger("httpx").exception("call failed")
        structlog.get_logger("roadworthy.x").exception("call failed")
    for record in log.records():
        assert "in fail" in record["exception"]
        assert "ValueError: refused [redacted] and [redacted], 8 characters" in record["exception"]
    assert len(log.records()) == 2
    for hidden in (KEY, secret, secret.upper()):
        assert hidden not in log.stream.getvalue()


def test_a_secret_is_redacted_in_any_field(log: Log) -> None:
    configure_logs(log_format="json", stream=log.stream)
    structlog.get_logger("roadworthy.x").warning("refused", headers={"x": [KEY]}, error=RuntimeError(KEY))
    assert KEY not in log.stream.getvalue()
    assert log.records()[0]["error"] == "[redacted]"


@pytest.mark.parametrize("name", ["anthropic", "httpcore.http11", "httpx", "openai", "asyncio"])
def test_clients_that_log_whole_requests_are_held_to_warnings(log: Log, name: str) -> None:
    configure_logs(level="debug", log_format="json", stream=log.stream)
    logging.getLogger(name).debug("Request options: %s", {"messages": "a secret thought"})
    logging.getLogger(name).info("Request options: %s", {"messages": "a secret thought"})
    assert log.records() == []


@pytest.mark.parametrize(
    ("level", "expected"),
    [("debug", ["d", "i", "w"]), ("info", ["i", "w"]), ("warning", ["w"]), ("error", [])],
)
def test_less_than_the_level_is_not_logged(log: Log, level: Any, expected: list[str]) -> None:
    configure_logs(level=level, log_format="json", stream=log.stream)
    logger = structlog.get_logger("roadworthy.x")
    logger.debug("d")
    logger.info("i")
    logger.warning("w")
    assert [record["event"] for record in log.records()] == expected


def test_auto_means_json_away_from_a_terminal_and_text_on_one() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    pipe, terminal = io.StringIO(), Terminal()
    for stream in (pipe, terminal):
        configure_logs(log_format="auto", stream=stream)
        structlog.get_logger("roadworthy.x").info("hello", key=KEY)
    assert json.loads(pipe.getvalue())["event"] == "hello"
    assert "hello" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")
    assert KEY not in terminal.getvalue()


def test_configuring_twice_writes_each_record_once(log: Log) -> None:
    configure_logs(log_format="json", stream=log.stream)
    configure_logs(log_format="json", stream=log.stream)
    structlog.get_logger("roadworthy.x").info("once")
    assert len(log.records()) == 1


def test_an_agents_own_structlog_is_heard_but_not_its_debug_records(log: Log) -> None:
    configure_logs(level="debug", log_format="json", stream=log.stream)
    structlog.get_logger("my_agent").debug("a secret thought")
    structlog.get_logger("my_agent").info("done", key=KEY)
    structlog.get_logger("roadworthy_like").debug("a secret thought")
    (record,) = log.records()
    assert (record["event"], record["logger"], record["key"]) == ("done", "my_agent", "[redacted]")


def test_a_record_that_cannot_be_written_ends_nothing() -> None:
    stream = io.StringIO()
    configure_logs(log_format="json", stream=stream)
    stream.close()
    structlog.get_logger("roadworthy.x").info("to nobody")
