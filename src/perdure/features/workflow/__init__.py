"""Workflow runs: everything a workflow can do.

What all concerns share is beside this file:

state · notes            what is remembered; the private records
registry · kind          where appliers, commands and decisions register; what the engine is told of workflows
step · step_end          numbering and buffering of events; what is looked at when a step ends
commands                 what every handler of a worker's command needs
jobs · effects · refill  what there is to do later; handing tasks to their queues; filling a queue again
services · validation · tokens · failures     for handlers: the server's parts, checks, task tokens, failures of the server's own
timers                   a concern small enough to have no folder
feature                  registers all of it; begin there to find who does what

One folder per concern, each module with its table of transitions, its decisions and its appliers together:

run/          a run from start to close and to the run that follows; options, pause, signals, cancel requests, deletion
task/         workflow tasks, what a worker's completion carries, queries, what happens after failures
activity/     scheduling, attempts, retries, control from outside
update/       admission, stages, the messages to and from the worker
other_runs/   children, parents, runs that are signaled or canceled, and the messages between them
reset/        reset, what it carries over, resume from a failure
rpc/          the RPCs, thin: check the request, ask the engine, answer
"""
