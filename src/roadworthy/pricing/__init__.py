"""What model calls cost: the catalogue of `genai-prices` and the operator's own price file.

Implements ``ports/prices.py``; made by ``bootstrap``, asked by ``engine/spending.py``.
"""
