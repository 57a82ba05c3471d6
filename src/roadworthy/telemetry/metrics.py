"""The numbers of one process in Prometheus' terms. Adapter of all three ports in ``ports.telemetry``.

``cli/running.py`` makes one; ``GET /metrics`` or a port of its own shows it. No label names a user, a tenant or a
thread. Providers and models come from agents' code: after a hundred different ones the rest are counted as ``other``.
What each name means is documented in ``docs/metrics.md``.
"""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from roadworthy.domain.errors import BudgetExceeded, LimitExceeded, LimitReached
from roadworthy.domain.load import Load
from roadworthy.domain.money import NANOS
from roadworthy.domain.run import Run
from roadworthy.domain.usage import ModelCall

MAX_MODELS = 100
OTHER = "other"

_RUN_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800)
_WAIT_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
_METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"})


class Metrics:
    """See the module. Counts on the event loop's thread; may be read from any."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._build = Gauge("roadworthy_build_info", "The version that runs.", ["version"], registry=self.registry)
        self._build.labels(version).set(1)
        self._runs = _Runs(self.registry)
        self._calls = _Calls(self.registry)
        self._limits = self._counter("limits_hit", "Limits that refused or ended a run.", "limit", "at")
        self._soft = self._counter("budget_soft_limits", "Budgets that crossed their soft limit.", "scope", "window")
        self._notes = self._counter("notes", "What the log tells of the worker, by the record's event.", "event")
        self._responses = self._counter("http_responses", "HTTP responses.", "method", "status")
        self._leases = self._counter("leases_lost", "Attempts that found their run in other hands.")
        self._circuits = Gauge(
            "roadworthy_circuit_open", "Whether a provider is left alone.", ["provider"], registry=self.registry
        )
        self._streams = Gauge("roadworthy_open_streams", "Clients that follow a run.", registry=self.registry)
        self._lag = Histogram(
            "roadworthy_event_loop_lag_seconds",
            "How late the event loop woke up a timer.",
            buckets=_LAG_BUCKETS,
            registry=self.registry,
        )

    def watch(self, load: Callable[[], Load]) -> None:
        """Show the load of the process from now on, as it is when somebody asks."""
        self.registry.register(_LoadCollector(load))

    def loop_lag(self, late: timedelta) -> None:
        """How late the event loop was, as ``telemetry/loop_lag.py`` measured it."""
        self._lag.observe(max(0.0, late.total_seconds()))

    def expose(self, accept: str) -> tuple[bytes, str]:
        """See ``ports.telemetry.Exposition``."""
        encode, media_type = choose_encoder(accept)
        return encode(self.registry), media_type

    def run_finished(self, run: Run) -> None:
        """See ``ports.telemetry.Telemetry``."""
        self._runs.count(run)

    def attempt_failed(self, run: Run, error: BaseException) -> None:  # noqa: ARG002 -- the port's
        """See ``ports.telemetry.Telemetry``. Only limits are counted: the run's outcome says the rest."""
        if isinstance(error, BudgetExceeded | LimitReached):
            self._limits.labels(error.code, "run").inc()

    def model_call(self, call: ModelCall) -> None:
        """See ``ports.telemetry.Telemetry``."""
        self._calls.count(call)

    def model_call_replayed(self, call: ModelCall) -> None:
        """See ``ports.telemetry.Telemetry``."""
        self._calls.count_replay(call)

    def refused(self, error: LimitExceeded) -> None:
        """See ``ports.telemetry.Telemetry``."""
        self._limits.labels(error.code, "admission").inc()

    def worker_note(self, event: str, **fields: str | float | bool | None) -> None:
        """See ``ports.telemetry.Telemetry``."""
        self._notes.labels(event).inc()
        if event == "budget_soft_limit":
            self._soft.labels(fields.get("scope"), fields.get("window")).inc()
        elif event == "lease_lost":
            self._leases.inc()
        elif event in {"circuit_opened", "circuit_closed"}:
            self._circuits.labels(fields.get("provider")).set(event == "circuit_opened")

    def response_started(self, method: str, status: int) -> None:
        """See ``ports.telemetry.WebTelemetry``."""
        self._responses.labels(method if method in _METHODS else OTHER, status).inc()

    def stream_opened(self) -> None:
        """See ``ports.telemetry.WebTelemetry``."""
        self._streams.inc()

    def stream_closed(self) -> None:
        """See ``ports.telemetry.WebTelemetry``."""
        self._streams.dec()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"roadworthy_{name}", text, labels, registry=self.registry)


class _Runs:
    """Runs that have ended."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._runs = Counter("roadworthy_runs", "Runs that ended.", ["agent", "status", "code"], registry=registry)
        self._duration = Histogram(
            "roadworthy_run_duration_seconds",
            "From a run's first start to its end.",
            ["agent", "status"],
            buckets=_RUN_BUCKETS,
            registry=registry,
        )
        self._queued = Histogram(
            "roadworthy_run_queue_seconds",
            "From a run's acceptance to its first start.",
            buckets=_WAIT_BUCKETS,
            registry=registry,
        )
        self._first_token = Histogram(
            "roadworthy_run_first_token_seconds",
            "From a run's acceptance to its first token.",
            ["agent"],
            buckets=_RUN_BUCKETS,
            registry=registry,
        )

    def count(self, run: Run) -> None:
        error = run.result.error
        self._runs.labels(run.agent, run.status.value, "" if error is None else error.code).inc()
        _observe(self._queued, run.created_at, run.started_at or run.finished_at)
        _observe(self._duration.labels(run.agent, run.status.value), run.started_at, run.finished_at)
        _observe(self._first_token.labels(run.agent), run.created_at, run.result.first_token_at)


class _Calls:
    """Model calls, by provider and model."""

    def __init__(self, registry: CollectorRegistry) -> None:
        who = ["provider", "model"]
        self._known: set[tuple[str, str]] = set()
        self._calls = Counter(
            "roadworthy_model_calls", "Calls by how they ended.", [*who, "outcome"], registry=registry
        )
        self._duration = Histogram(
            "roadworthy_model_call_duration_seconds",
            "From a call's start to its end.",
            who,
            buckets=_RUN_BUCKETS,
            registry=registry,
        )
        self._tokens = Counter("roadworthy_tokens", "Tokens that were billed.", [*who, "kind"], registry=registry)
        self._cost = Counter("roadworthy_cost_usd", "US dollars that calls cost.", who, registry=registry)
        self._unpriced = Counter("roadworthy_model_calls_unpriced", "Calls without a price.", who, registry=registry)
        self._estimated = Counter(
            "roadworthy_model_calls_estimated", "Calls whose usage nobody reported.", who, registry=registry
        )
        self._unjournalled = Counter(
            "roadworthy_model_calls_unjournalled",
            "Complete calls out of the journal's reach: a crash would have them bought again.",
            who,
            registry=registry,
        )
        self._unjudged = Counter(
            "roadworthy_model_calls_unjudged",
            "Answers that cannot be checked for having been cut off.",
            who,
            registry=registry,
        )
        self._replayed = Counter(
            "roadworthy_model_calls_replayed", "Answers from the journal, not bought again.", who, registry=registry
        )

    def count(self, call: ModelCall) -> None:
        who = self._who(call)
        self._calls.labels(*who, call.outcome).inc()
        _observe(self._duration.labels(*who), call.started_at, call.finished_at)
        for kind in ("input", "output", "cache_read", "cache_write", "reasoning"):
            if number := getattr(call.tokens, kind):
                self._tokens.labels(*who, kind).inc(number)
        if call.cost_nanos is None:
            self._unpriced.labels(*who).inc()
        else:
            self._cost.labels(*who).inc(call.cost_nanos / NANOS)
        for counter, counts in (
            (self._estimated, call.estimated),
            (self._unjournalled, not call.journalled),
            (self._unjudged, not call.judged),
        ):
            if counts:
                counter.labels(*who).inc()

    def count_replay(self, call: ModelCall) -> None:
        self._replayed.labels(*self._who(call)).inc()

    def _who(self, call: ModelCall) -> tuple[str, str]:
        who = (call.provider, call.model)
        if who not in self._known:
            if len(self._known) >= MAX_MODELS:
                return OTHER, OTHER
            self._known.add(who)
        return who


class _LoadCollector(Collector):
    """Asks how busy the process is whenever the numbers are read."""

    def __init__(self, load: Callable[[], Load]) -> None:
        self._load = load

    def collect(self) -> Iterable[Metric]:
        load = self._load()
        yield GaugeMetricFamily("roadworthy_slots", "Runs that may execute at once.", load.slots)
        yield GaugeMetricFamily("roadworthy_slots_held", "Slots that are taken.", load.held)
        yield GaugeMetricFamily("roadworthy_slots_stuck", "Slots held by threads of ended runs.", load.stuck)
        yield GaugeMetricFamily("roadworthy_runs_waiting", "Runs in line, as last counted.", load.waiting)


def _observe(histogram: Histogram, since: datetime | None, until: datetime | None) -> None:
    if since is not None and until is not None:
        histogram.observe(max(0.0, (until - since).total_seconds()))
