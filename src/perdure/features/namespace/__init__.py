"""Namespaces: who a workflow belongs to, with retention, custom search attributes and limits of its own."""
