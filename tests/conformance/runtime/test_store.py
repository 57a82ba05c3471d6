"""The store is divided by owner: what one user's run keeps, no other user's run finds, by any operation."""

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.store.base import BaseStore, GetOp, ListNamespacesOp, PutOp, SearchOp
from typing_extensions import TypedDict

from roadworthy.domain.errors import ConfigError
from roadworthy.domain.ids import TenantId, UserId
from roadworthy.domain.principal import Owner
from roadworthy.runtimes.langgraph.store import StoreConfig
from tests.conformance.runtime.playing import OWNER, Bench, Compiled, a_run, play
from tests.support.postgres import PostgresServer

BOB = Owner(tenant=OWNER.tenant, user=UserId("bob"))
STRANGER = Owner(tenant=TenantId("other"), user=OWNER.user)
DOTTED = Owner(tenant=TenantId("acme"), user=UserId("ann.smith@x|y"))


class Found(TypedDict, total=False):
    """What an operation gave."""

    do: str
    found: Any


def graph_of(**operations: Callable[[BaseStore], Awaitable[object] | object]) -> Compiled:
    async def node(state: Found, *, store: BaseStore) -> Found:
        found = operations[state.get("do", "")](store)
        return {"found": await found if isinstance(found, Awaitable) else found}

    return StateGraph(Found).add_node("node", node).add_edge(START, "node").compile()


async def _put(store: BaseStore) -> None:
    await store.aput(("notes", "private"), "one", {"text": "mine"})


async def _get(store: BaseStore) -> object:
    item = await store.aget(("notes", "private"), "one")
    return None if item is None else [item.value, list(item.namespace), item.key]


async def _search(store: BaseStore) -> object:
    return [[item.value, list(item.namespace)] for item in await store.asearch(("notes",))]


async def _list(store: BaseStore) -> object:
    everything = await store.alist_namespaces()
    shallow = await store.alist_namespaces(prefix=("notes",), max_depth=1)
    ended = await store.alist_namespaces(suffix=("private",))
    return [[list(one) for one in some] for some in (everything, shallow, ended)]


async def _batch(store: BaseStore) -> object:
    put, got, found, listed = await store.abatch(
        [
            PutOp(("notes", "private"), "two", {"text": "second"}),
            GetOp(("notes", "private"), "one"),
            SearchOp(("notes",)),
            ListNamespacesOp(),
        ]
    )
    assert put is None
    return [got is not None, len(found) if isinstance(found, list) else -1, listed]


OPERATIONS = {"put": _put, "get": _get, "search": _search, "list": _list, "batch": _batch}


@pytest.mark.parametrize("owner", [OWNER, DOTTED])
async def test_an_owner_finds_what_it_kept_under_its_own_names(bench: Bench, owner: Owner) -> None:
    async with bench.serve(graph_of(**OPERATIONS)) as runtime:

        async def do(what: str) -> Any:
            output = (await play(runtime, a_run({"do": what}, owner=owner))).completed.output
            assert isinstance(output, dict)
            return output.get("found")

        await do("put")
        assert await do("get") == [{"text": "mine"}, ["notes", "private"], "one"]
        assert await do("search") == [[{"text": "mine"}, ["notes", "private"]]]
        assert await do("list") == [[["notes", "private"]], [["notes"]], [["notes", "private"]]]
        got, _, listed = await do("batch")
        assert (got, listed) == (True, [["notes", "private"]])


@pytest.mark.parametrize(
    ("scope", "other", "shared"),
    [("user", BOB, False), ("user", STRANGER, False), ("tenant", BOB, True), ("tenant", STRANGER, False)],
)
async def test_another_owner_finds_nothing_unless_the_tenant_shares(
    bench: Bench, scope: Any, other: Owner, shared: bool
) -> None:
    bench.store_scope = scope
    async with bench.serve(graph_of(**OPERATIONS)) as runtime:
        await play(runtime, a_run({"do": "put"}))
        for what, nothing in (("get", None), ("search", []), ("list", [[], [], []])):
            output = (await play(runtime, a_run({"do": what}, owner=other))).completed.output
            assert isinstance(output, dict)
            assert (output.get("found") != nothing) is shared


async def test_sync_nodes_use_the_store_from_their_threads(bench: Bench) -> None:
    def node(state: Found, *, store: BaseStore) -> Found:
        store.put(("notes",), "k", {"n": 1})
        item = store.get(("notes",), "k")
        return {"found": None if item is None else item.value}

    graph = StateGraph(Found).add_node("node", node).add_edge(START, "node").compile()
    async with bench.serve(graph) as runtime:
        played = await play(runtime, a_run({"do": ""}))
    assert played.completed.output == {"do": "", "found": {"n": 1}}


async def test_sync_methods_on_the_loop_are_refused_instead_of_hanging(bench: Bench) -> None:
    def misuse(store: BaseStore) -> object:
        with pytest.raises(RuntimeError, match="await"):
            store.get(("notes",), "k")
        return "refused"

    async with bench.serve(graph_of(misuse=misuse)) as runtime:
        played = await play(runtime, a_run({"do": "misuse"}))
    assert played.completed.output == {"do": "misuse", "found": "refused"}


async def test_nothing_works_outside_of_a_run(bench: Bench) -> None:
    async with bench.serve(graph_of(**OPERATIONS)) as runtime:
        store = runtime.served["agent"].graph.store
        assert store is not None
        for operation in (_put, _get, _search, _list, _batch):
            with pytest.raises(RuntimeError, match="run"):
                await operation(store)


CAN_LOAD_EXTENSIONS = hasattr(sqlite3.Connection, "enable_load_extension")


@pytest.mark.skipif(CAN_LOAD_EXTENSIONS, reason="this Python's sqlite3 can load extensions, so nothing is refused")
async def test_an_index_without_extensions_is_refused_at_the_start(sqlite_bench: Bench) -> None:
    sqlite_bench.store = StoreConfig(index={"dims": 2, "embed": "openai:any"})
    with pytest.raises(ConfigError, match="extensions"):
        async with sqlite_bench.serve(graph_of(**OPERATIONS)):
            pass


async def test_an_index_on_a_postgres_without_pgvector_is_refused_at_the_start(
    tmp_path: Path, database: str, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none-that-works")
    bench = Bench(folder=tmp_path, url=database, store=StoreConfig(index={"dims": 2, "embed": "openai:any"}))
    (control,) = server.folder.rglob("vector.control")
    control.rename(away := control.with_suffix(".away"))
    try:
        with pytest.raises(ConfigError, match="pgvector"):
            async with bench.serve(graph_of(**OPERATIONS)):
                pass
    finally:
        away.rename(control)


async def test_items_are_searched_by_meaning_with_an_index(bench: Bench) -> None:
    if bench.url is None and not CAN_LOAD_EXTENSIONS:
        pytest.skip("NOT CHECKED: search by meaning on SQLite, this Python's sqlite3 cannot load it")

    def embed(texts: list[str]) -> list[list[float]]:
        return [[float("cat" in text), float("dog" in text)] for text in texts]

    async def keep(store: BaseStore) -> None:
        await store.aput(("pets",), "a", {"text": "my cat"})
        await store.aput(("pets",), "b", {"text": "my dog"})

    async def find(store: BaseStore) -> object:
        return [item.key for item in await store.asearch(("pets",), query="a dog", limit=1)]

    index: Any = {"dims": 2, "embed": embed, "fields": ["text"]}
    bench.store = StoreConfig(index=index)
    async with bench.serve(graph_of(keep=keep, find=find)) as runtime:
        await play(runtime, a_run({"do": "keep"}))
        mine = await play(runtime, a_run({"do": "find"}))
        theirs = await play(runtime, a_run({"do": "find"}, owner=BOB))
        assert mine.completed.output == {"do": "find", "found": ["b"]}
        assert theirs.completed.output == {"do": "find", "found": []}
        assert await runtime.erase_items(OWNER) == 2
