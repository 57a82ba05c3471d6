"""The scripted model behaves like a provider's model to LangChain: streaming, usage, tools, stop reason."""

from langchain.agents import create_agent
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.tools import tool

from tests.support.scripted_model import ScriptedCall, ScriptedChatModel, ScriptedTurn, text_of


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"rain in {city}"


CALL_THEN_ANSWER = (
    ScriptedTurn(text="Let me see.", calls=(ScriptedCall(name="weather", args={"city": "Bern"}),)),
    ScriptedTurn(text="It rains in Bern."),
)


async def test_it_streams_a_chunk_a_token_with_usage_and_a_stop_reason() -> None:
    model = ScriptedChatModel(turns=(ScriptedTurn(text=text_of(50)),), provider="anthropic")

    chunks: list[AIMessageChunk] = [chunk async for chunk in model.astream("four")]

    assert sum(bool(chunk.text) for chunk in chunks) == 50
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    assert whole.usage_metadata == {"input_tokens": 1, "output_tokens": 50, "total_tokens": 51}
    assert whole.response_metadata["stop_reason"] == "end_turn"
    assert whole.response_metadata["model_provider"] == "anthropic"


async def test_sync_async_and_streamed_answers_are_the_same() -> None:
    model = ScriptedChatModel(turns=CALL_THEN_ANSWER)

    messages = [model.invoke("hi"), await model.ainvoke("hi")]

    assert {message.text for message in messages} == {"Let me see."}
    assert [message.tool_calls[0]["args"] for message in messages] == [{"city": "Bern"}] * 2
    assert "".join(chunk.text for chunk in model.stream("hi")) == "Let me see."
    assert {message.response_metadata["stop_reason"] for message in messages} == {"tool_use"}


async def test_an_agent_runs_its_script_anew_for_each_message() -> None:
    agent = create_agent(ScriptedChatModel(turns=CALL_THEN_ANSWER, ms_per_token=0.01), [weather])

    first = await agent.ainvoke({"messages": [HumanMessage("Bern?")]})
    second = await agent.ainvoke({"messages": [*first["messages"], HumanMessage("And now?")]})

    assert [message.type for message in second["messages"]] == ["human", "ai", "tool", "ai"] * 2
    assert second["messages"][-1].text == "It rains in Bern."


async def test_a_cut_turn_ends_without_usage_or_stop_reason() -> None:
    model = ScriptedChatModel(turns=(ScriptedTurn(text="half an ans", cut=True),))

    message = await model.ainvoke("hi")

    assert message.text == "half an ans"
    assert message.usage_metadata is None
    assert "stop_reason" not in message.response_metadata
