"""How many files this process and those it starts may have open."""

import resource

# What a process needs besides the connections that are measured.
_SPARE = 500


def connections_possible(wanted: int) -> int:
    """Raise the limit as far as it goes; how many of the connections fit under it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted + _SPARE if hard == resource.RLIM_INFINITY else min(hard, wanted + _SPARE)
    if soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return min(wanted, max(soft, limit) - _SPARE)
