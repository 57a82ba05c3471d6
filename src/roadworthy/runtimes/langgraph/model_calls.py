"""A model call, as it is planned, under way, and as it ends.

``metering`` opens one per call, feeds it the pieces of the answer, and closes it; before that, the reservation gate
asks what the call may cost. ``model_cache``, which is not told for which call it is asked, finds it in its context.
"""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from langchain_core.messages import BaseMessage
from langchain_core.messages.ai import UsageMetadata, add_usage
from langchain_core.outputs import ChatGeneration, LLMResult
from langgraph.constants import TAG_NOSTREAM

from roadworthy.domain.usage import ModelCall, Tokens, tokens_of
from roadworthy.ports.runtime import PlannedCall
from roadworthy.runtimes.langgraph.anthropic_usage import hear_message_start, take_start
from roadworthy.runtimes.langgraph.current import inside_tool
from roadworthy.runtimes.langgraph.journal_place import Asked
from roadworthy.runtimes.langgraph.tokens import (
    answer_chars,
    as_tokens,
    estimate,
    estimate_input,
    is_contradictory,
    silent_chars,
    usage_of,
)

_ANTHROPIC = "anthropic"
_COMPLETE = "complete"
# How LangChain's middleware marks calls of its own, such as those that write a summary.
_INTERNAL = "lc_internal_call"
_MAX_OUTPUT = ("max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict")


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A response from the journal, and the call that it was bought with. ``own``: by an earlier attempt of this run."""

    call: ModelCall
    answers: Sequence[ChatGeneration]
    own: bool
    usage: UsageMetadata | None


@dataclass(slots=True, kw_only=True)
class OpenCall:
    """``speaks``: its text is the agent's answer, not a tool's business. ``shown``: some of it was told.

    ``tools`` are the definitions sent with the prompt. ``start``: what the provider said of the input before it
    answered; ``usage``: what it said of the whole.

    ``asked``: what the journal knows it by, None out of its reach; ``question``: prompt and model as a cache was asked.
    ``replay``: the journal's answer, ``delivered`` in the model's stead, or ``cached`` by somebody else. ``answered``:
    in full by the model; then ``kept`` is the call as the journal has it.
    """

    call_id: str
    node: str
    provider: str
    model: str
    started_at: datetime
    prompt: Sequence[BaseMessage]
    speaks: bool
    tools: Sequence[object] = ()
    message_id: str | None = None
    shown: bool = False
    chars: int = 0
    chunks: int = 0
    start: Tokens | None = None
    usage: UsageMetadata | None = None
    outer: "OpenCall | None" = None
    closed: bool = False
    asked: Asked | None = None
    question: tuple[str, str] | None = None
    replay: Replay | None = None
    delivered: bool = False
    answered: bool = False
    cached: bool = False
    kept: ModelCall | None = None

    @property
    def owes(self) -> bool:
        """Whether somebody is paid for it."""
        return self.replay is None and not self.cached

    def take_silent(self, message: BaseMessage) -> None:
        """Count what a piece has beside text: thinking, tool arguments and usage are no content, but they cost."""
        if (start := take_start(message)) is not None:
            self.start = start
        self.chars += silent_chars(message)
        if (usage := usage_of(message)) is not None:
            self.usage = add_usage(self.usage, usage)

    def take_answer(self, message: BaseMessage) -> None:
        """Take over what the finished message says about itself."""
        self.start = take_start(message) or self.start
        self.usage = usage_of(message) or self.usage
        self.message_id = self.message_id or message.id
        if not self.chunks:
            self.chars = answer_chars(message)

    def ended(self, outcome: str, at: datetime, *, free: bool = False, cut_short: bool = False) -> ModelCall:
        """The call as it goes on record. ``free``: nothing was billed. ``cut_short``: it never told its whole usage."""
        tokens, estimated = self._counted(whole=outcome == _COMPLETE and not cut_short, free=free)
        return ModelCall(
            call_id=self.call_id,
            node=self.node,
            provider=self.provider,
            model=self.model,
            tokens=tokens,
            estimated=estimated,
            outcome=outcome,
            started_at=self.started_at,
            finished_at=at,
            message_id=self.message_id or "",
        )

    def completed(self, at: datetime) -> ModelCall:
        """The call as it goes on record when its answer was complete, and no replay."""
        if self.kept is not None:
            return self.kept
        if self.cached:
            return replace(self.ended(_COMPLETE, at), tokens=Tokens(), estimated=False)
        return replace(self.ended(_COMPLETE, at), journalled=False)

    def _counted(self, *, whole: bool, free: bool) -> tuple[Tokens, bool]:
        """What the call used, and whether that is an estimate."""
        if self.usage is not None and whole:
            return as_tokens(self.usage), is_contradictory(self.usage)
        if free:
            return Tokens(), False
        told = self.start if self.usage is None else as_tokens(self.usage)
        if told is None:
            return estimate(self.prompt, self.chars, self.tools), True
        return replace(told, output=max(told.output, tokens_of(self.chars))), True


_current: ContextVar[OpenCall | None] = ContextVar("roadworthy_model_call", default=None)


def enter_call(call: OpenCall | None) -> None:
    """What the current context does next belongs to this call; None: to nobody knows which."""
    outer = _current.get()
    while outer is not None and outer.closed:
        outer = outer.outer
    if call is not None:
        call.outer = outer
    _current.set(call)


def asking_call() -> OpenCall | None:
    """The call for which a cache is asked now; None when that cannot be told."""
    call = _current.get()
    return None if call is None or call.closed or call.question is not None else call


def answered_call(question: tuple[str, str]) -> OpenCall | None:
    """The call for which a cache is given an answer now. A model may have called others meanwhile."""
    call = _current.get()
    while call is not None and (call.closed or call.question != question):
        call = call.outer
    return call


def open_call(
    run_id: UUID,
    prompt: Sequence[BaseMessage],
    tags: Sequence[str],
    metadata: Mapping[str, object],
    at: datetime,
    *,
    invocation_params: Mapping[str, object] | None = None,
) -> OpenCall:
    """A call that begins ``at``, as LangChain's callbacks describe it."""
    provider = str(metadata.get("ls_provider", ""))
    if _ANTHROPIC in provider:
        hear_message_start()
    return OpenCall(
        call_id=str(run_id),
        node=str(metadata.get("langgraph_node", "")),
        provider=provider,
        model=str(metadata.get("ls_model_name", "")),
        started_at=at,
        prompt=prompt,
        speaks=TAG_NOSTREAM not in tags and _INTERNAL not in metadata and not inside_tool.get(),
        tools=_tools(invocation_params or {}),
    )


def planned_call(
    run_id: UUID,
    messages: Sequence[BaseMessage],
    metadata: Mapping[str, object],
    invocation_params: Mapping[str, object],
) -> PlannedCall:
    """A call that is about to be made, as LangChain's callbacks describe it. Its input is an estimate."""
    return PlannedCall(
        call_id=str(run_id),
        node=str(metadata.get("langgraph_node", "")),
        provider=str(metadata.get("ls_provider", "")),
        model=str(metadata.get("ls_model_name", "")),
        input_tokens=estimate_input(messages, _tools(invocation_params)),
        max_output_tokens=_max_output(metadata, invocation_params),
    )


def first_message(response: LLMResult) -> BaseMessage | None:
    """The message of a chat model's answer, None for a model that completes texts."""
    for generations in response.generations:
        for generation in generations:
            if isinstance(generation, ChatGeneration):
                return generation.message
    return None


def chat_answers(response: LLMResult) -> Sequence[ChatGeneration]:
    """The answers of a chat model to one prompt."""
    return [one for one in (response.generations or [[]])[0] if isinstance(one, ChatGeneration)]


def text_length(response: LLMResult) -> int:
    """The characters of a completion."""
    return sum(len(generation.text) for generations in response.generations for generation in generations)


def _tools(invocation_params: Mapping[str, object]) -> Sequence[object]:
    tools = invocation_params.get("tools") or invocation_params.get("functions")
    return tools if isinstance(tools, list) else ()


def _max_output(metadata: Mapping[str, object], invocation_params: Mapping[str, object]) -> int | None:
    """The largest of the limits that are named: which of several counts is the client's secret."""
    said = [*(invocation_params.get(key) for key in _MAX_OUTPUT), metadata.get("ls_max_tokens")]
    return max((limit for limit in said if isinstance(limit, int) and limit > 0), default=None)
