"""Runs, threads and agents as the plain API's JSON. ``wire.py`` describes what is written here.

A cost is USD, null when the price of a part is not known.
"""

from collections.abc import Sequence
from datetime import datetime

from roadworthy.domain.agent import Agent
from roadworthy.domain.money import usd
from roadworthy.domain.review import ToolReview
from roadworthy.domain.run import Run, ToolCall
from roadworthy.domain.thread import Message, Thread
from roadworthy.domain.usage import ModelCall, Tokens, Usage
from roadworthy.services.threads import ThreadView

Json = dict[str, object]


def run_json(run: Run) -> Json:
    """A run with what it has left behind so far."""
    result = run.result
    return {
        "run_id": run.run_id,
        "thread_id": run.thread_id,
        "agent": run.agent,
        "status": run.status.value,
        "attempt": run.attempt,
        "response": result.response,
        "output": result.output,
        "structured_response": result.structured_response,
        "tool_calls": [tool_call_json(call) for call in result.tool_calls],
        "error": None if result.error is None else {"code": result.error.code, "message": result.error.message},
        "usage": usage_json(result.usage),
        "cost_usd": cost_json(result.usage.known_cost_nanos),
        "interrupts": [{"id": one.id, "value": one.value} for one in result.interrupts],
        "metadata": run.request.metadata,
        "created_at": run.created_at,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        # A run that never started spent all its time waiting.
        "queue_ms": _milliseconds(run.created_at, run.started_at or run.finished_at),
        "duration_ms": _milliseconds(run.started_at, run.finished_at),
    }


def run_detail_json(run: Run, reviews: Sequence[ToolReview]) -> Json:
    """A run; one that stopped for a review, with the tool calls that somebody must still look at."""
    document = run_json(run)
    if run.in_review:
        document["reviews"] = [review_json(one) for one in reviews]
    return document


def review_json(review: ToolReview) -> Json:
    """One tool call of unknown outcome."""
    return {
        "tool_call_id": review.tool_call_id,
        "name": review.name,
        "args": review.args,
        "started_at": review.started_at,
    }


def tool_call_json(call: ToolCall) -> Json:
    """One tool call of a run."""
    return {
        "id": call.id,
        "name": call.name,
        "args": call.args,
        "result": call.result,
        "error": call.error,
        "duration_ms": call.duration_ms,
    }


def usage_json(usage: Usage) -> Json:
    """The sum over model calls."""
    return {
        "model_calls": usage.model_calls,
        **tokens_json(usage.tokens),
        "estimated": usage.estimated,
        "cost_usd": cost_json(usage.known_cost_nanos),
        "unpriced_calls": usage.unpriced,
    }


def model_call_json(call: ModelCall) -> Json:
    """One model call of a run."""
    return {
        "provider": call.provider,
        "model": call.model,
        "node": call.node,
        "outcome": call.outcome,
        **tokens_json(call.tokens),
        "estimated": call.estimated,
        "cost_usd": cost_json(call.cost_nanos),
        "started_at": call.started_at,
        "finished_at": call.finished_at,
    }


def cost_json(nanos: int | None) -> float | None:
    """Nano-USD as USD."""
    return None if nanos is None else usd(nanos)


def tokens_json(tokens: Tokens) -> Json:
    """Tokens by kind."""
    return {
        "input_tokens": tokens.input,
        "output_tokens": tokens.output,
        "total_tokens": tokens.total,
        "cache_read_tokens": tokens.cache_read,
        "cache_write_tokens": tokens.cache_write,
        "cache_write_1h_tokens": tokens.cache_write_1h,
        "reasoning_tokens": tokens.reasoning,
    }


def thread_json(thread: Thread) -> Json:
    """A thread without what it holds."""
    return {
        "thread_id": thread.ref.thread_id,
        "agent": thread.agent,
        "active_run_id": thread.active_run,
        "created_at": thread.created_at,
        "updated_at": thread.updated_at,
    }


def thread_view_json(view: ThreadView) -> Json:
    """A thread with its messages, state and runs."""
    return {
        **thread_json(view.thread),
        "messages": [message_json(message) for message in view.messages],
        "values": view.values,
        "runs": [run_json(run) for run in view.runs],
    }


def message_json(message: Message) -> Json:
    """One message of a thread."""
    return {
        "id": message.id,
        "role": message.role,
        "content": message.content,
        "tool_calls": list(message.tool_calls),
        "tool_call_id": message.tool_call_id,
        "stop_reason": message.stop_reason,
        "name": message.name,
    }


def agent_json(agent: Agent) -> Json:
    """What a client needs to know to run an agent."""
    return {
        "name": agent.name,
        "description": agent.description,
        "accepts_message": agent.accepts_message,
        "input_schema": agent.input_schema,
        "context_schema": agent.context_schema,
    }


def _milliseconds(begin: datetime | None, end: datetime | None) -> int | None:
    return None if begin is None or end is None else round((end - begin).total_seconds() * 1000)
