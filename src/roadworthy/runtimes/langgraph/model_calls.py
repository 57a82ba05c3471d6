"""A model call under way, and what it amounts to when it ends.

``metering`` opens one per call, feeds it the pieces of the answer, and closes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata, add_usage
from langchain_core.outputs import ChatGeneration, LLMResult
from langgraph.constants import TAG_NOSTREAM

from roadworthy.domain.usage import ModelCall, Tokens
from roadworthy.runtimes.langgraph.current import inside_tool
from roadworthy.runtimes.langgraph.messages import text_of
from roadworthy.runtimes.langgraph.tokens import as_tokens, estimate, usage_of


@dataclass(slots=True, kw_only=True)
class OpenCall:
    """``speaks``: its text is the agent's answer, not a tool's business. ``shown``: some of it was told."""

    call_id: str
    node: str
    provider: str
    model: str
    started_at: datetime
    prompt: Sequence[BaseMessage]
    speaks: bool
    message_id: str | None = None
    shown: bool = False
    chars: int = 0
    chunks: int = 0
    usage: UsageMetadata | None = None

    def take_silent(self, message: BaseMessage) -> None:
        """Count a piece without text: thinking, tool arguments and usage are no content, but they cost."""
        if isinstance(message, AIMessageChunk):
            self.chars += sum(len(part.get("args") or "") for part in message.tool_call_chunks)
            if message.usage_metadata is not None:
                self.usage = add_usage(self.usage, message.usage_metadata)
        if isinstance(message.content, list):
            for block in message.content:
                if isinstance(block, dict) and isinstance(thinking := block.get("thinking"), str):
                    self.chars += len(thinking)

    def take_answer(self, message: BaseMessage) -> None:
        """Take over what the finished message says about itself."""
        self.usage = usage_of(message) or self.usage
        self.message_id = self.message_id or message.id
        if not self.chunks:
            self.chars = len(text_of(message.content))

    def ended(self, outcome: str, at: datetime, *, free: bool = False, cut_short: bool = False) -> ModelCall:
        """The call as it goes on record. ``free``: nothing was billed. ``cut_short``: it never told its whole usage."""
        known = self.usage is not None and not cut_short
        if self.usage is not None and known:
            tokens = as_tokens(self.usage)
        else:
            tokens = Tokens() if free else estimate(self.prompt, self.chars)
        return ModelCall(
            call_id=self.call_id,
            node=self.node,
            provider=self.provider,
            model=self.model,
            tokens=tokens,
            estimated=not known and not free,
            outcome=outcome,
            started_at=self.started_at,
            finished_at=at,
        )


def open_call(
    run_id: UUID, prompt: Sequence[BaseMessage], tags: Sequence[str], metadata: Mapping[str, object], at: datetime
) -> OpenCall:
    """A call that begins ``at``, as LangChain's callbacks describe it."""
    return OpenCall(
        call_id=str(run_id),
        node=str(metadata.get("langgraph_node", "")),
        provider=str(metadata.get("ls_provider", "")),
        model=str(metadata.get("ls_model_name", "")),
        started_at=at,
        prompt=prompt,
        speaks=TAG_NOSTREAM not in tags and not inside_tool.get(),
    )


def first_message(response: LLMResult) -> BaseMessage | None:
    """The message of a chat model's answer, None for a model that completes texts."""
    for generations in response.generations:
        for generation in generations:
            if isinstance(generation, ChatGeneration):
                return generation.message
    return None


def text_length(response: LLMResult) -> int:
    """The characters of a completion."""
    return sum(len(generation.text) for generations in response.generations for generation in generations)
