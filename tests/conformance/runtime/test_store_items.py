"""What agents keep of one user is handed out, or deleted, whole: and nothing of whose name is alike."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from langgraph.graph import START, StateGraph
from langgraph.store.base import BaseStore
from langgraph.store.sqlite.base import MIGRATIONS, VECTOR_MIGRATIONS
from typing_extensions import TypedDict

from roadworthy.domain.ids import TenantId, UserId
from roadworthy.domain.json import JsonObject
from roadworthy.domain.principal import Owner
from roadworthy.runtimes.langgraph.keys import store_prefix
from roadworthy.runtimes.langgraph.runtime import LangGraphRuntime
from roadworthy.runtimes.langgraph.store_items import AT_ONCE, STORE_FILE, erase_some_items, items_in_file
from tests.conformance.runtime.playing import OWNER, Bench, Compiled, a_run, play

ALIKE = [
    Owner(tenant=TenantId(tenant), user=UserId(user))
    for tenant, user in (
        ("acme", "ann-x"),
        ("acme", "ann.x"),
        ("acme", "annx"),
        ("acme", "an"),
        ("acme", "Ann"),
        ("acme.x", "ann"),
        ("other", "ann"),
    )
]


class Count(TypedDict):
    """How many items to keep."""

    count: int


def keeping() -> Compiled:
    async def keep(state: Count, *, store: BaseStore) -> dict[str, Any]:
        for number in range(state["count"]):
            await store.aput(("notes", f"n{number % 3}"), f"k{number}", {"text": f"cat {number}"})
        return {}

    return StateGraph(Count).add_node("keep", keep).add_edge(START, "keep").compile()


async def kept(runtime: LangGraphRuntime, owner: Owner, count: int) -> None:
    assert (await play(runtime, a_run({"count": count}, owner=owner))).error is None


def keys(items: Sequence[JsonObject]) -> set[str]:
    return {str(item["key"]) for item in items}


async def test_items_are_handed_out_under_the_names_that_the_agent_gave_them(bench: Bench) -> None:
    async with bench.serve(keeping()) as runtime:
        await kept(runtime, OWNER, 1)
        (item,) = await runtime.export_items(OWNER)
    assert (item["namespace"], item["key"], item["value"]) == (["notes", "n0"], "k0", {"text": "cat 0"})
    assert item["created_at"]
    assert item["updated_at"]


async def test_more_items_than_one_trip_takes_are_all_handed_out_and_all_deleted(bench: Bench) -> None:
    many = AT_ONCE * 2 + 5
    async with bench.serve(keeping()) as runtime:
        await kept(runtime, OWNER, many)
        exported = await runtime.export_items(OWNER)
        assert (len(exported), len(keys(exported))) == (many, many)
        assert await runtime.erase_items(OWNER) == many
        assert await runtime.export_items(OWNER) == []
        assert await runtime.erase_items(OWNER) == 0


async def test_whose_name_is_alike_keeps_everything(bench: Bench) -> None:
    async with bench.serve(keeping()) as runtime:
        for number, owner in enumerate([OWNER, *ALIKE]):
            await kept(runtime, owner, number + 1)
        assert await runtime.erase_items(OWNER) == 1
        for number, owner in enumerate(ALIKE):
            assert len(await runtime.export_items(owner)) == number + 2


async def test_what_a_tenant_shares_is_nobody_s_own(bench: Bench) -> None:
    bench.store_scope = "tenant"
    async with bench.serve(keeping()) as runtime:
        await kept(runtime, OWNER, 2)
        assert list(await runtime.export_items(OWNER)) == []
        assert await runtime.erase_items(OWNER) == 0


async def test_a_store_in_use_is_read_from_its_file(sqlite_bench: Bench, tmp_path: Path) -> None:
    async with sqlite_bench.serve(keeping()) as runtime:
        assert list(items_in_file(tmp_path / "nothing", OWNER)) == []
        await kept(runtime, OWNER, 2)
        await kept(runtime, ALIKE[0], 1)
        (file,) = sqlite_bench.folder.rglob(STORE_FILE)
        assert list(items_in_file(file, OWNER)) == list(await runtime.export_items(OWNER))


def test_embeddings_go_with_their_items() -> None:
    """On LangGraph's tables, but by hand: not every Python's sqlite3 can load what makes embeddings."""
    mine, other = (".".join([*store_prefix(owner, shared_by_tenant=False), "notes"]) for owner in (OWNER, ALIKE[0]))
    with closing(sqlite3.connect(":memory:")) as connection:
        for migration in (*MIGRATIONS, *VECTOR_MIGRATIONS):
            connection.execute(migration)
        for prefix in (mine, other):
            for number in range(AT_ONCE):
                connection.execute("INSERT INTO store (prefix, key, value) VALUES (?, ?, '{}')", (prefix, f"k{number}"))
                for field in ("a", "b"):
                    connection.execute(
                        "INSERT INTO store_vectors (prefix, key, field_name) VALUES (?, ?, ?)",
                        (prefix, f"k{number}", field),
                    )
        rounds: list[tuple[int, bool]] = []
        while not rounds or rounds[-1][1]:
            rounds.append(erase_some_items(connection, OWNER))
        assert rounds == [(AT_ONCE, True), (0, True), (0, False)]
        for table, left in (("store", AT_ONCE), ("store_vectors", AT_ONCE * 2)):
            rows = connection.execute(f"SELECT prefix, count(*) FROM {table} GROUP BY prefix").fetchall()
            assert rows == [(other, left)]
