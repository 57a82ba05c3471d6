"""The admin API under ``/admin``: keys, rate limits, budgets, usage and the audit log of the caller's tenant.

Routes call services only; mounted by ``app.py``.
"""
