"""What LangGraph is told about a run: thread, limits, metadata. Nothing of it comes from a client unchecked.

Used by ``run`` and ``runtime``. Keys of ``configurable`` steer LangGraph; a client's context goes another way.
"""

from collections.abc import Mapping
from uuid import UUID

from langchain_core.runnables import RunnableConfig
from langgraph.pregel.protocol import StreamProtocol
from langgraph.runtime import RunControl, Runtime
from langgraph.types import StreamMode

from roadworthy.domain.run import Run
from roadworthy.domain.thread import ThreadRef
from roadworthy.ports.runtime import Caps
from roadworthy.runtimes.langgraph.graphs import ServedGraph
from roadworthy.runtimes.langgraph.keys import thread_key
from roadworthy.runtimes.langgraph.sink import StateSink

# LangGraph's own names for what a parent graph hands to its children (langgraph._internal._constants). Given to a root
# graph, they make it send updates and custom data straight to the sink, in order with the models' tokens, and spare it
# the queue and the extra task of its public stream.
_STREAM = "__pregel_stream"
_RUNTIME = "__pregel_runtime"
_SINK_MODES: tuple[StreamMode, ...] = ("updates", "values")

# Prefixes and keys of metadata by which LangChain, LangGraph and we find our way.
_RESERVED_PREFIXES = ("__", "ls_", "lc_", "langgraph_", "checkpoint_")
_RESERVED = frozenset({"run_id", "thread_id", "source", "step", "parents", "counters_since_delta_snapshot", "tags"})


def state_config(ref: ThreadRef) -> RunnableConfig:
    """Where a thread's state is."""
    return {"configurable": {"thread_id": thread_key(ref)}}


def run_config(run: Run, served: ServedGraph, caps: Caps, sink: StateSink, control: RunControl) -> RunnableConfig:
    """The config of one attempt, whose state changes and custom data go to ``sink``."""
    config = state_config(ThreadRef(owner=run.owner, thread_id=run.thread_id))
    config["recursion_limit"] = caps.steps if served.steps is None else min(caps.steps, served.steps)
    config["metadata"] = {**_metadata(run.request.metadata), "run_id": run.run_id, "attempt": run.attempt}
    config["run_name"] = run.agent
    if run.attempt == 1:
        # Traces know the run by its own id; a later attempt is another trace.
        config["run_id"] = UUID(hex=run.run_id)
    config.setdefault("configurable", {}).update(
        {
            _STREAM: StreamProtocol(sink.state, set(_SINK_MODES)),
            _RUNTIME: Runtime(store=served.graph.store, stream_writer=sink.custom, control=control),
        }
    )
    return config


def _metadata(given: Mapping[str, object]) -> dict[str, str | int | float | bool]:
    """What a client may note: plain values that mean nothing to LangGraph."""
    return {
        key: value
        for key, value in given.items()
        if isinstance(value, str | int | float | bool) and not _is_reserved(key)
    }


def _is_reserved(key: str) -> bool:
    return key in _RESERVED or key.startswith(_RESERVED_PREFIXES)
