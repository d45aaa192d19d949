"""The RPCs of workflows, thin: check the request, ask the engine, answer."""
