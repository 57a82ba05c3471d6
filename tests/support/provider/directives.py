"""The fake model's default behaviour: it does what lines of the user's text tell it to.

`tool: NAME {json}` lines are called one after the other, then the answer is `say: TEXT`, or a summary of the tool
results, or an echo. `think: TEXT` thinks first; `pace: MS` sets milliseconds per token. It keeps no state, so that a
call repeated after a crash gets the same answer.
"""

import json

from pydantic import JsonValue

from tests.support.provider.messages import InvalidMessages, MessagesRequest, tool_result_text
from tests.support.provider.script import ToolUse, Turn


def follow_directives(request: MessagesRequest) -> Turn:
    """The turn that the conversation asks for.

    Raises:
        InvalidMessages: a directive cannot be read.
    """
    text = request.last_user_text()
    pace = float((_values(text, "pace") or ["0"])[0])
    thinking = "\n".join(_values(text, "think"))
    tools = _values(text, "tool")
    exchange = request.since_last_user_text()
    position = sum(message.role == "assistant" for message in exchange)
    if position < len(tools):
        return Turn(tools=(_parse_tool(tools[position]),), thinking=thinking, ms_per_token=pace)
    if said := _values(text, "say"):
        return Turn(text="\n".join(said), thinking=thinking, ms_per_token=pace)
    results = [
        tool_result_text(block) for message in exchange for block in message.blocks if block.type == "tool_result"
    ]
    answer = f"The tools returned: {'; '.join(results)}" if results else f"You said: {text}"
    return Turn(text=answer, thinking=thinking, ms_per_token=pace)


def _values(text: str, directive: str) -> list[str]:
    prefix = directive + ":"
    return [line.removeprefix(prefix).strip() for line in text.splitlines() if line.startswith(prefix)]


def _parse_tool(value: str) -> ToolUse:
    name, _, raw = value.partition(" ")
    try:
        args: JsonValue = json.loads(raw or "{}")
    except ValueError as error:
        msg = f"the arguments of a `tool:` line must be JSON: {raw}"
        raise InvalidMessages(msg) from error
    if not isinstance(args, dict):
        msg = f"the arguments of a `tool:` line must be a JSON object: {raw}"
        raise InvalidMessages(msg)
    return ToolUse(name=name, args=args)
