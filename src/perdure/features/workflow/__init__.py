"""Workflow runs: everything a workflow can do, one concern per module.

state · notes        what is remembered, and the private records
registry · step      how records and commands find their functions; numbering and buffering of events
start · task · …     one module per concern: its appliers, its decisions, its jobs
rpc/                 the RPCs, thin: translate, ask the engine, answer
"""
