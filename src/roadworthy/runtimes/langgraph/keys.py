"""Names under which LangGraph keeps a thread's state and an owner's store items: no two owners share one. And
the file of the checkpoints, in the data folder.

Percent-encoding makes ``/`` a safe separator; ``.`` is encoded too, because LangGraph's stores join namespaces with it.
"""

from urllib.parse import quote

from roadworthy.domain.principal import Owner
from roadworthy.domain.thread import ThreadRef

CHECKPOINTS_FILE = "checkpoints.sqlite"


def thread_key(ref: ThreadRef) -> str:
    """The checkpointer's ``thread_id`` of a thread."""
    return "/".join(_encode(part) for part in (ref.owner.tenant, ref.owner.user, ref.thread_id))


def store_prefix(owner: Owner, *, shared_by_tenant: bool) -> tuple[str, ...]:
    """The first labels of every store namespace of an owner."""
    tenant = f"t:{_encode(owner.tenant)}"
    return (tenant, "shared") if shared_by_tenant else (tenant, f"u:{_encode(owner.user)}")


def owned_range(owner: Owner) -> tuple[str, str]:
    """Every prefix of the owner's own, from the first to before the last: labels are joined by dots, and ``/`` comes
    right after the dot.
    """
    prefix = ".".join(store_prefix(owner, shared_by_tenant=False))
    return prefix + ".", prefix + "/"


def _encode(text: str) -> str:
    return quote(text, safe="").replace(".", "%2E")
