"""Perdure: durable execution for Python teams, in one ``pip install``."""

__version__ = "0.1.0"
