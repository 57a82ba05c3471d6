"""No repository can forget whose data it touches: the owner or the tenant is the first argument of every method."""

import inspect
from datetime import datetime

import pytest

from roadworthy.domain.ids import KeyId, RunId, TenantId
from roadworthy.domain.principal import ApiKey, Owner
from roadworthy.domain.run import Run
from roadworthy.domain.thread import ThreadRef
from roadworthy.ports import ledger, policies, retention, store
from roadworthy.ports.retention import UsedThread

# They carry their owner.
OWNED = (Owner, ThreadRef, Run, TenantId, TenantId | None)
# Before a key is found there is no tenant; a new key carries its owner; whether any key exists concerns none; what was
# erased halfway is finished at a start for everybody; and so is what dead workers have reserved, every half minute. The
# pruner goes through everybody's.
WITHOUT_A_TENANT = {
    "KeyStore.find": KeyId,
    "KeyStore.insert": ApiKey,
    "KeyStore.insert_first": ApiKey,
    "KeyStore.any": None,
    "ThreadStore.unfinished_erasures": None,
    "Ledger.sweep": datetime,
    "RetentionStore.unused_threads": datetime,
    "RetentionStore.prune_events": datetime,
    "RetentionStore.used_threads": datetime,
    "RetentionStore.trim_outputs": UsedThread,
    "RetentionStore.visited_until": None,
    "RetentionStore.note_visited": datetime,
}


def _methods() -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for module in (store, ledger, policies, retention):
        for name, port in inspect.getmembers(module, inspect.isclass):
            if port.__module__ != module.__name__ or not getattr(port, "_is_protocol", False):
                continue
            for method_name, method in inspect.getmembers(port, inspect.isfunction):
                if method_name.startswith("_"):
                    continue
                parameters = list(inspect.signature(method).parameters.values())[1:]
                found.append((f"{name}.{method_name}", parameters[0].annotation if parameters else None))
    return found


@pytest.mark.parametrize(("method", "first"), _methods())
def test_a_stores_method_takes_the_owner_first(method: str, first: object) -> None:
    assert first in OWNED or (method in WITHOUT_A_TENANT and first == WITHOUT_A_TENANT[method])


def test_an_exception_is_one_that_is_needed() -> None:
    assert set(WITHOUT_A_TENANT) <= {method for method, _ in _methods()}


def test_the_stores_are_looked_at() -> None:
    names = {method.split(".")[0] for method, _ in _methods()}
    stores = {"RunStore", "ThreadStore", "KeyStore", "Ledger", "PolicyStore", "AuditLog"}
    assert names == {*stores, "RetentionStore", "UserRecords"}
    assert RunId not in OWNED
