"""Shipped with the server: what a test, a demo or a benchmark of workflows needs."""
