"""Where everything durable is: one protocol, SQLite and PostgreSQL behind one SQL layer."""

from perdure.store.opening import create_store
from perdure.store.protocol import Store

__all__ = ["Store", "create_store"]
