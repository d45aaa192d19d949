"""Workflow tasks: scheduled, started, completed or failed; what a worker's completion carries; queries."""
