"""The whole server but its sockets, run from one seed: random workflows, clients and workers, a store and a network that fail, servers that
die.

Faults first; then everything heals, and every workflow has to end. An auditor knows what must have come of it.
"""
