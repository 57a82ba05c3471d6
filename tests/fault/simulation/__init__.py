"""Several processes in one: seeded histories of everything that can go wrong, and what must hold after each of them."""
