"""Targets and projects: what loads, and the one readable error for what does not."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from roadworthy.domain.errors import ConfigError
from roadworthy.runtimes.langgraph.factories import build_agents
from roadworthy.runtimes.langgraph.project import read_project, read_target
from roadworthy.runtimes.langgraph.registry import LoadedAgent
from roadworthy.runtimes.langgraph.store_config import store_config

GRAPH = """
from langgraph.graph import START, MessagesState, StateGraph
def node(state): return {}
builder = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node")
graph = builder.compile()
"""


@pytest.fixture(autouse=True)
def _clean_imports() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], "__file__", None) and "pytest-of-" in str(sys.modules[name].__file__):
            del sys.modules[name]


def write(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(dedent(text))
    return file


async def load(folder: Path, target: str) -> LoadedAgent:
    async with build_agents(read_target(target, folder=folder)) as agents:
        (agent,) = agents
        return agent


async def failure(folder: Path, target: str) -> str:
    with pytest.raises(ConfigError) as raised:
        await load(folder, target)
    return raised.value.message


FACTORIES = """
from contextlib import asynccontextmanager, contextmanager
from langchain_core.runnables import RunnableConfig
log = []
def plain(): return graph
def from_builder(): return builder
async def awaited(): return graph
def with_config(config: RunnableConfig):
    log.append(config)
    return graph
def optional(config=None): return graph
async def awaited_with_config(config): return graph
@asynccontextmanager
async def opened():
    log.append("open")
    yield graph
    log.append("closed")
@contextmanager
def opened_sync(config):
    yield builder
@asynccontextmanager
async def opened_with_config(config):
    yield graph
class Holder:
    inner = graph
"""


@pytest.mark.parametrize(
    "attribute",
    [
        "graph", "builder", "plain", "from_builder", "awaited", "with_config", "optional", "awaited_with_config",
        "opened", "opened_sync", "opened_with_config", "Holder.inner",
    ],
)  # fmt: skip
async def test_graphs_builders_and_factories_load(tmp_path: Path, attribute: str) -> None:
    write(tmp_path, "my_agent.py", GRAPH + FACTORIES)
    agent = await load(tmp_path, f"my_agent.py:{attribute}")
    assert agent.name == "my_agent"
    assert "node" in agent.graph.nodes


async def test_a_functional_flow_loads(tmp_path: Path) -> None:
    write(
        tmp_path,
        "flow.py",
        "from langgraph.func import entrypoint\n@entrypoint()\nasync def go(n: int) -> int:\n    return n\n",
    )
    assert "go" in (await load(tmp_path, "flow.py:go")).graph.nodes


async def test_a_context_of_a_factory_stays_open_as_long_as_the_agents(tmp_path: Path) -> None:
    write(tmp_path, "opening.py", GRAPH + FACTORIES)
    async with build_agents(read_target("opening.py:opened", folder=tmp_path)):
        log = sys.modules["opening"].log
        assert log == ["open"]
    assert log == ["open", "closed"]


async def test_a_module_in_the_folder_loads_by_its_name(tmp_path: Path) -> None:
    write(tmp_path, "pack_a/__init__.py", "")
    write(tmp_path, "pack_a/agent.py", GRAPH)
    agent = await load(tmp_path, "pack_a.agent:graph")
    assert agent.name == "agent"


async def test_neighbours_of_the_file_are_importable_and_its_types_have_one_name(tmp_path: Path) -> None:
    write(tmp_path, "sub/near_types.py", "class Near: ...\n")
    write(
        tmp_path,
        "sub/near_agent.py",
        GRAPH + "from near_types import Near\nimport near_agent as me\nassert me.__name__ == __name__\n",
    )
    await load(tmp_path, "sub/near_agent.py:graph")


async def test_two_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    write(tmp_path, "a/same.py", GRAPH + "which = 'a'\n")
    write(tmp_path, "b/same.py", GRAPH + "which = 'b'\n")
    file = write(
        tmp_path, "langgraph.json", json.dumps({"graphs": {"a": "./a/same.py:graph", "b": "./b/same.py:graph"}})
    )
    async with build_agents(read_project(file)) as agents:
        assert [agent.name for agent in agents] == ["a", "b"]
        assert agents[0].graph is not agents[1].graph


async def test_a_file_named_like_a_library_does_not_hide_it(tmp_path: Path) -> None:
    write(tmp_path, "json.py", GRAPH)
    write(tmp_path, "langgraph.py", "value = 1\n")
    with pytest.raises(ConfigError, match="graph"):
        await load(tmp_path, "langgraph.py:graph")
    assert (await load(tmp_path, "json.py:graph")).graph is not None
    assert sys.modules["json"] is json


@pytest.mark.parametrize(
    ("text", "target", "said"),
    [
        ("def broken(:\n", "x.py:graph", ["x.py:graph", "syntax error", "line 1"]),
        ("import nowhere_to_be_found\n", "x.py:graph", ["ModuleNotFoundError", "nowhere_to_be_found", "line 1"]),
        ("raise ValueError('a\\nb')\n", "x.py:graph", ["ValueError: a b", "line 1"]),
        ("import sys\nsys.exit('boom')\n", "x.py:graph", ["SystemExit: boom", "line 2"]),
        (GRAPH, "x.py:grph", ["has no grph", "builder, graph"]),
        ("graph = 3\n", "x.py:graph", ["is of type int", "compiled graph"]),
        ("class graph: ...\n", "x.py:graph", ["class graph"]),
        ("def graph(): return 3\n", "x.py:graph", ["returned of type int"]),
        ("def graph(): raise KeyError('k')\n", "x.py:graph", ["factory failed", "KeyError"]),
        ("def graph(a, b): ...\n", "x.py:graph", ["2 arguments"]),
        ("def graph(*, key): ...\n", "x.py:graph", ["1 arguments"]),
        ("", "missing.py:graph", ["missing.py", "does not exist"]),
        ("", "no_such_module_anywhere:graph", ["there is no module no_such_module_anywhere"]),
    ],
)  # fmt: skip
async def test_what_does_not_load_is_named(tmp_path: Path, text: str, target: str, said: list[str]) -> None:
    write(tmp_path, "x.py", text)
    message = await failure(tmp_path, target)
    for part in said:
        assert part in message
    assert "\n" not in message.strip()


async def test_an_uncompilable_builder_is_named(tmp_path: Path) -> None:
    write(tmp_path, "x.py", GRAPH + "loose = StateGraph(MessagesState)\nloose.add_node('n', node)\n")
    assert "does not compile" in await failure(tmp_path, "x.py:loose")


@pytest.mark.parametrize("target", ["agent.py", ":graph", "agent.py:", "agent.py:a b", "agent.py:1x"])
def test_a_target_that_is_none_is_refused(tmp_path: Path, target: str) -> None:
    with pytest.raises(ConfigError, match="no target"):
        read_target(target, folder=tmp_path)


def project(folder: Path, **config: object) -> Path:
    return write(folder, "langgraph.json", json.dumps({"graphs": {"main": "./x.py:graph"}, **config}))


def test_a_project_is_read_without_importing_anything(tmp_path: Path) -> None:
    file = project(
        tmp_path,
        graphs={"main": "./x.py:graph", "other": {"path": "pkg.mod:make", "description": "The other one."}},
        dependencies=["."],
        env={"A_KEY": "a", "A_NUMBER": 3},
        store={"ttl": {"default_ttl": 10}},
        python_version="3.12",
    )
    read = read_project(file)
    assert [(one.name, str(one), one.description) for one in read.targets] == [
        ("main", "./x.py:graph", ""),
        ("other", "pkg.mod:make", "The other one."),
    ]
    assert read.env == {"A_KEY": "a", "A_NUMBER": "3"}
    assert "A_KEY" not in repr(read)
    assert [warning for warning in read.warnings if "python_version" in warning]
    assert not [warning for warning in read.warnings if "dependencies" in warning]


def test_the_environment_may_be_a_file(tmp_path: Path) -> None:
    write(tmp_path, ".env", 'KEY="a b"\nEMPTY=\n# nothing\nexport OTHER=1\n')
    assert read_project(project(tmp_path, env=".env")).env == {"KEY": "a b", "EMPTY": "", "OTHER": "1"}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"auth": {"path": "auth.py:auth"}}, "auth"),
        ({"graphs": {}}, "graphs"),
        ({"graphs": []}, "graphs"),
        ({"graphs": {"a b": "./x.py:graph"}}, "a b"),
        ({"graphs": {"a": 3}}, "graph a"),
        ({"graphs": {"a": "nonsense"}}, "no target"),
        ({"env": "missing.env"}, "missing.env"),
        ({"env": [1]}, "env"),
        ({"store": 3}, "store"),
    ],
)
def test_a_wrong_project_is_named(tmp_path: Path, config: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_project(project(tmp_path, **config))


@pytest.mark.parametrize(("text", "said"), [("{", "line 1"), ("[]", "object"), ("\udcff", "UTF-8")])
def test_a_file_that_is_no_json_object_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "langgraph.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=said):
        read_project(file)


def test_the_stores_section_is_understood(tmp_path: Path) -> None:
    write(tmp_path, "embedding.py", "def embed(texts): return [[0.0] for _ in texts]\n")
    store = {
        "index": {"dims": 1, "embed": "./embedding.py:embed", "fields": ["text"]},
        "ttl": {"default_ttl": 60, "sweep_interval_minutes": 5, "refresh_on_read": False},
    }
    config = store_config(read_project(project(tmp_path, store=store)))
    assert config is not None
    assert config.index is not None
    assert config.index.get("dims") == 1
    assert callable(config.index.get("embed"))
    assert config.ttl == {"default_ttl": 60.0, "sweep_interval_minutes": 5, "refresh_on_read": False}
    assert store_config(read_project(project(tmp_path))) is None


@pytest.mark.parametrize(
    "store",
    [
        {"index": 1},
        {"index": {"embed": "openai:x"}},
        {"index": {"dims": 2}},
        {"index": {"dims": 2, "embed": "openai:x", "fields": "text"}},
        {"index": {"dims": 2, "embed": "./nowhere.py:embed"}},
        {"ttl": {"default_ttl": "long"}},
    ],
)
def test_a_stores_section_that_is_not_understood_is_refused(tmp_path: Path, store: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        store_config(read_project(project(tmp_path, store=store)))
