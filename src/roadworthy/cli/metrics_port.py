"""A port of its own for ``/metrics``, when one is set: answered by a thread, also while the event loop is busy."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from roadworthy.domain.errors import ConfigError

if TYPE_CHECKING:
    from roadworthy.settings import Settings
    from roadworthy.telemetry.metrics import Metrics


@contextmanager
def metrics_port(settings: "Settings", metrics: "Metrics") -> Generator[int | None]:
    """Serve while the context is open. Yields the port, None when none is set.

    Raises:
        ConfigError: the port cannot be listened on.
    """
    if settings.metrics_port is None:
        yield None
        return
    import structlog
    from prometheus_client import start_http_server

    host = settings.metrics_host or settings.host
    try:
        server, thread = start_http_server(settings.metrics_port, host, metrics.registry)
    except OSError as error:
        raise ConfigError(
            f"/metrics cannot listen on {host} port {settings.metrics_port}: {error.strerror}; choose another with "
            "ROADWORTHY_METRICS_PORT"
        ) from error
    port = server.server_port
    structlog.get_logger("roadworthy.server").info("serving_metrics", host=host, port=port)
    try:
        yield port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
