"""`roadworthy keys` beside a running server."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.command import Serving, run, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Serving]:
    """One server for all tests that only add keys."""
    async with serving(tmp_path_factory.mktemp("server")) as started:
        yield started


async def _status(server: Serving, key: str) -> int:
    async with server.client(key) as client:
        return (await client.get("/agent/threads")).status_code


async def _refused(server: Serving, key: str) -> None:
    """Until the key opens nothing any more; within seconds."""
    async with asyncio.timeout(10):
        while await _status(server, key) != 401:
            pass


async def _key(server: Serving, user: str, *args: str) -> tuple[str, str]:
    """A new key and its id."""
    code, out, err = await run(server.folder, "keys", "create", "--user", user, *args)
    key = out.removesuffix("\n")
    assert (code, key.startswith("rw_live_"), key.isascii()) == (0, True, True)
    assert key not in err
    return key, await _id_of(server, user)


async def _id_of(server: Serving, user: str) -> str:
    """The id of a user's newest key."""
    _, listed, _ = await run(server.folder, "keys", "list", "--json")
    return [one["key_id"] for one in json.loads(listed) if one["user"] == user][-1]


async def test_a_key_made_beside_the_server_works_at_once_and_a_revoked_one_ends_within_seconds(
    server: Serving,
) -> None:
    key, key_id = await _key(server, "ann", "--name", "laptop")
    assert await _status(server, key) == 200
    code, out, _ = await run(server.folder, "keys", "revoke", key_id)
    assert (code, out) == (0, "")
    await _refused(server, key)


async def test_a_rotated_key_works_until_its_grace_is_over(server: Serving) -> None:
    old, key_id = await _key(server, "ben")
    code, out, _ = await run(server.folder, "keys", "rotate", key_id, "--grace", "1h")
    new = out.strip()
    assert code == 0
    assert new != old
    assert (await _status(server, old), await _status(server, new)) == (200, 200)
    code, out, _ = await run(server.folder, "keys", "rotate", await _id_of(server, "ben"), "--grace", "0s")
    assert code == 0
    await _refused(server, new)
    assert await _status(server, out.strip()) == 200


async def test_a_key_may_do_only_what_it_was_made_for(server: Serving) -> None:
    for args, expected in (
        (("--scope", "runs:read"), (403, "permission_denied")),
        (("--agent", "other"), (404, "not_found")),
    ):
        key, _ = await _key(server, "cleo", *args)
        async with server.client(key) as client:
            refused = await client.post("/agent/invoke", json={"message": "hello"})
            assert (refused.status_code, refused.json()["code"]) == expected


async def test_a_list_shows_no_key(server: Serving) -> None:
    key, key_id = await _key(server, "dora", "--expires", "3", "--tenant", "acme")
    _, table, _ = await run(server.folder, "keys", "list", "--tenant", "acme")
    _, listed, _ = await run(server.folder, "keys", "list", "--tenant", "acme", "--json")
    assert key_id in table
    assert [one["user"] for one in json.loads(listed)] == ["dora"]
    assert key not in table + listed


async def test_keys_can_be_made_before_the_first_start(tmp_path: Path) -> None:
    code, out, _ = await run(tmp_path, "keys", "create", "--user", "ops", "--scope", "admin")
    assert code == 0
    async with serving(tmp_path) as server:
        assert not any(line.startswith("rw_live_") for line in server.lines)
        assert await _status(server, out.strip()) == 200


async def test_what_the_command_line_does_to_keys_is_on_record_under_its_user(tmp_path: Path) -> None:
    made = ("keys", "create", "--user", "ops", "--scope", "keys:write", "--scope", "audit:read")
    code, out, err = await run(tmp_path, *made, env={"LOGNAME": "maria"})
    assert code == 0, err
    key, key_id = out.strip(), await _id_in(tmp_path)
    await run(tmp_path, "keys", "rotate", key_id, env={"LOGNAME": "maria"})
    await run(tmp_path, "keys", "revoke", key_id, env={"LOGNAME": "otto"})
    code, listed, err = await run(tmp_path, "audit", "--json")
    assert code == 0, err
    found = [(one["actor"], one["action"], one["target"] == key_id) for one in json.loads(listed)][::-1]
    assert found == [
        ("cli:maria", "key.create", True),
        ("cli:maria", "key.create", False),
        ("cli:maria", "key.rotate", True),
        ("cli:otto", "key.revoke", True),
    ]
    assert json.loads(listed)[-1]["after"]["scopes"] == ["audit:read", "keys:write"]
    assert key[20:] not in listed


async def _id_in(folder: Path) -> str:
    """The id of the only key in a folder."""
    _, listed, _ = await run(folder, "keys", "list", "--json")
    (one,) = json.loads(listed)
    return str(one["key_id"])


async def test_mistakes_are_told_in_one_line(tmp_path: Path) -> None:
    for args, complaint in [
        (("keys", "create", "--user", "a b"), "a user must be"),
        (("keys", "create", "--user", "a", "--tenant", "/"), "a tenant must be"),
        (("keys", "revoke", "nobody"), "there is no key nobody"),
        (("keys", "rotate", "nobody"), "there is no usable key nobody"),
        (("keys", "rotate", "nobody", "--grace", "3x"), "'3x' is no time"),
    ]:
        code, out, err = await run(tmp_path, *args)
        assert code in (1, 2)
        assert out == ""
        assert complaint in err
        assert "Traceback" not in err
