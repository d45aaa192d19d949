"""Every limit of the server, in one place: its name with its unit, its official default, its official dynamic-config key, its reason.

Limits are changed by *dynamic config values*: the keys that operators of the official server know (case does not matter), with JSON
values. A duration is a number of seconds or text such as ``"10s"`` or ``"1m30s"``.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from perdure.core.clock import DAY, HOUR, MICROSECOND, MILLISECOND, MINUTE, SECOND

LONGEST_DURATION = 100 * 365 * DAY
"""Longer durations are cut to this or refused, so that adding them to a time stays a time."""

KIB = 1024
MIB = 1024 * KIB


class LimitError(ValueError):
    """A dynamic config value that its key cannot take; the message names the key, what it wants and what it got."""


def _limit(default: Any, *keys: str) -> Any:
    """A limit with its default and the official keys that set it (more than one where the official server has two implementations)."""
    return dataclasses.field(default=default, metadata={"keys": keys})


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryDefaults:
    """What a retry policy gets where its owner left a field out. maximum_attempts 0 means no bound."""

    initial_interval_ns: int = SECOND
    maximum_interval_coefficient: float = 100.0
    backoff_coefficient: float = 2.0
    maximum_attempts: int = 0


# No slots: making them would double what this class costs at import.
@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of one server. Names end in their unit: ``_bytes``, ``_ns`` (nanoseconds), ``_per_second``; anything else is a count.

    ``…_error`` refuses (or ends the workflow) beyond it, ``…_warn`` only shows in the log and in metrics, ``…_suggest_continue_as_new``
    sets the hint that a worker sees in its next task.
    """

    # -- names and sizes of what callers send -----------------------------------------------------
    # Every id and name (workflow, activity, task queue, type, request, namespace): they are keys of indexes and labels of metrics.
    max_id_length: int = _limit(1000, "limit.maxIDLength")
    # One payload set of a call or command: bounds a row, a message and what a worker must hold.
    blob_size_error_bytes: int = _limit(2 * MIB, "limit.blobSize.error")
    blob_size_warn_bytes: int = _limit(512 * KIB, "limit.blobSize.warn")
    # A memo travels with every list result.
    memo_size_error_bytes: int = _limit(2 * MIB, "limit.memoSize.error")
    memo_size_warn_bytes: int = _limit(2 * KIB, "limit.memoSize.warn")
    # Search attributes are indexed: many keys or long values make every write slower.
    search_attribute_keys: int = _limit(100, "frontend.searchAttributesNumberOfKeysLimit")
    search_attribute_value_bytes: int = _limit(2 * KIB, "frontend.searchAttributesSizeOfValueLimit")
    search_attributes_total_bytes: int = _limit(40 * KIB, "frontend.searchAttributesTotalSizeLimit")
    # A key by which a queue shares its workers fairly; fixed by the official server.
    fairness_key_bytes: int = _limit(64)
    # Of a worker's code, as the worker names it.
    build_id_bytes: int = _limit(255, "limit.workerBuildIdSize")
    # Summary and details are shown in lists and pages of user interfaces.
    user_metadata_summary_bytes: int = _limit(400, "limit.userMetadataSummarySize")
    user_metadata_details_bytes: int = _limit(20_000, "limit.userMetadataDetailsSize")
    # One link holds a workflow id and a namespace name, each up to max_id_length.
    link_size_bytes: int = _limit(4000, "frontend.linkMaxSize")
    links_per_request: int = _limit(10, "frontend.maxlinksPerRequest")
    # Links that gather on one standalone execution over all the calls that attach to it.
    links_per_execution: int = _limit(2000, "chasm.maxLinksPerComponent")

    # Events of one run that one answer of a worker makes; more could not be handed on.
    transaction_size_bytes: int = _limit(4 * MIB, "system.transactionSizeLimit")

    # -- one execution ----------------------------------------------------------------------------
    # A history is replayed from its first event by a new worker; beyond this the workflow is ended.
    history_size_error_bytes: int = _limit(50 * MIB, "limit.historySize.error")
    history_size_warn_bytes: int = _limit(10 * MIB, "limit.historySize.warn")
    history_size_suggest_continue_as_new_bytes: int = _limit(4 * MIB, "limit.historySize.suggestContinueAsNew")
    history_count_error: int = _limit(50 * 1024, "limit.historyCount.error")
    history_count_warn: int = _limit(10 * 1024, "limit.historyCount.warn")
    history_count_suggest_continue_as_new: int = _limit(4 * 1024, "limit.historyCount.suggestContinueAsNew")
    # What is pending is held in memory while the workflow is loaded.
    mutable_state_size_error_bytes: int = _limit(8 * MIB, "limit.mutableStateSize.error")
    mutable_state_size_warn_bytes: int = _limit(1 * MIB, "limit.mutableStateSize.warn")
    # The last failure of a retrying activity is kept in the state and truncated to this.
    activity_failure_size_error_bytes: int = _limit(4 * KIB, "limit.mutableStateActivityFailureSize.error")
    activity_failure_size_warn_bytes: int = _limit(2 * KIB, "limit.mutableStateActivityFailureSize.warn")
    # What one workflow waits for at a time, of each kind.
    pending_activities: int = _limit(2000, "limit.numPendingActivities.error")
    pending_child_executions: int = _limit(2000, "limit.numPendingChildExecutions.error")
    pending_external_signals: int = _limit(2000, "limit.numPendingSignals.error")
    pending_external_cancels: int = _limit(2000, "limit.numPendingCancelRequests.error")
    # Each signal is an event; a sender without end would fill the history alone.
    signals_per_execution: int = _limit(10_000, "history.maximumSignalsPerExecution")
    # Events that wait for the workflow task in progress to close.
    buffered_events: int = _limit(100, "history.maximumBufferedEventsBatch")
    buffered_events_size_bytes: int = _limit(2 * MIB, "history.maximumBufferedEventsSizeInBytes")
    # Queries that wait for the workflow task in progress; one more is answered "buffer is full".
    buffered_queries: int = _limit(1, "history.MaxBufferedQueryCount")
    # Updates without an outcome, which are held in memory.
    updates_in_flight: int = _limit(10, "history.maxInFlightUpdates")
    updates_in_flight_payload_bytes: int = _limit(20 * MIB, "history.maxInFlightUpdatePayloads")
    # Update ids are kept for the life of the run, for dedup.
    updates_total: int = _limit(2000, "history.maxTotalUpdates")
    updates_suggest_continue_as_new_ratio: float = _limit(0.9, "history.maxTotalUpdates.suggestContinueAsNewThreshold")
    # Completions of one workflow task that a worker sends in pages, held until the last.
    workflow_task_completion_buffer_bytes: int = _limit(40 * MIB, "history.workflowTaskCompletionBufferSizeLimit")
    # All that are held on a server, and which part of it may belong to one namespace; 0 sets no bound.
    workflow_task_completion_buffer_total_bytes: int = _limit(1024 * MIB, "history.workflowTaskCompletionBufferTotalSizeLimit")
    workflow_task_completion_buffer_namespace_ratio: float = _limit(0.5, "history.workflowTaskCompletionBufferNamespaceRatio")
    workflow_task_completion_pages: int = _limit(1024)
    # Build ids a reset can go back to.
    auto_reset_points: int = _limit(20, "history.historyMaxAutoResetPoints")
    # A worker of one namespace must not act upon another only because it knows its name.
    cross_namespace_commands_enabled: bool = _limit(False, "system.enableCrossNamespaceCommands")

    # A run that follows by itself (retry, cron, continued as new) waits until so long after the one before began: a chain cannot spin.
    workflow_id_reuse_minimal_interval_ns: int = _limit(SECOND, "history.workflowIdReuseMinimalInterval")
    # The same for callers: who starts over sooner is refused. Off on the official server.
    workflow_id_reuse_start_time_validation: bool = _limit(False, "history.enableWorkflowIdReuseStartTimeValidation")

    # -- tasks ------------------------------------------------------------------------------------
    # Start-to-close of a workflow task where the starter gave none: a worker that died is noticed after it.
    default_workflow_task_timeout_ns: int = _limit(10 * SECOND, "history.defaultWorkflowTaskTimeout")
    # A longer start-to-close of a workflow task would hide a dead worker; fixed by the official server.
    workflow_task_timeout_maximum_ns: int = _limit(120 * SECOND)
    # So long a speculative task waits on a normal queue before it becomes a normal one; fixed by the official server.
    speculative_task_schedule_to_start_ns: int = _limit(5 * SECOND)
    # A worker that forgets a discarded task is shown its events again; so many at most, so that rejected updates cost little.
    discarded_task_events: int = _limit(10, "history.discardSpeculativeWorkflowTaskMaximumEventsCount")
    # How long a worker may keep one workflow task alive for its local activities.
    workflow_task_heartbeat_timeout_ns: int = _limit(30 * MINUTE, "history.workflowTaskHeartbeatTimeout")
    # From this attempt on a workflow task counts as one that keeps failing: queries and updates are refused, which it could not answer;
    # later attempts get growing timeouts. Fixed by the official server.
    workflow_task_failing_attempt: int = _limit(3)
    # What the timeout of such a task grows by at most.
    workflow_task_retry_max_interval_ns: int = _limit(10 * MINUTE, "history.workflowTaskRetryMaxInterval")
    # Failures in a row after which a workflow is marked as having problems.
    workflow_task_problems_to_mark: int = _limit(5, "system.numConsecutiveWorkflowTaskProblemsToTriggerSearchAttribute")
    # What the retry policy of an activity gets where its owner left a field out.
    default_activity_retry: RetryDefaults = _limit(RetryDefaults(), "history.defaultActivityRetryPolicy")
    # The same for a workflow that has a retry policy; without one it is not retried.
    default_workflow_retry: RetryDefaults = _limit(RetryDefaults(), "history.defaultWorkflowRetryPolicy")

    # -- callbacks --------------------------------------------------------------------------------
    # Each is a call that the server will make when the workflow or the update has ended.
    callbacks_per_workflow: int = _limit(32, "system.maxCallbacksPerWorkflow")
    callbacks_per_update: int = _limit(32, "system.maxCallbacksPerUpdateID")
    # For executions of the newer kinds, which store each callback on its own.
    callbacks_per_execution: int = _limit(2000, "callback.maxPerExecution")
    # Where such a call goes, and what it carries along.
    callback_url_length: int = _limit(1000, "frontend.callbackURLMaxLength")
    callback_header_bytes: int = _limit(8 * KIB, "frontend.callbackHeaderMaxLength")

    # -- Nexus ------------------------------------------------------------------------------------
    # Operations that one workflow waits for at a time, and their names.
    nexus_operations_per_workflow: int = _limit(
        30, "component.nexusoperations.limit.operation.concurrency", "nexusoperation.limit.operation.concurrencyPerWorkflow.max"
    )
    nexus_service_name_length: int = _limit(
        1000, "component.nexusoperations.limit.service.name.length", "nexusoperation.limit.service.name.length"
    )
    nexus_operation_name_length: int = _limit(
        1000, "component.nexusoperations.limit.operation.name.length", "nexusoperation.limit.operation.name.length"
    )
    # Must hold a workflow id and a namespace name: that is what SDKs put in it.
    nexus_operation_token_bytes: int = _limit(
        4096, "component.nexusoperations.limit.operation.token.length", "nexusoperation.limit.operation.token.length"
    )
    # All header fields of a request together.
    nexus_header_bytes: int = _limit(8192, "component.nexusoperations.limit.header.size", "nexusoperation.limit.header.size")
    # A handler answers within this, or says that its operation is asynchronous.
    nexus_request_timeout_ns: int = _limit(10 * SECOND, "component.nexusoperations.request.timeout", "nexusoperation.request.timeout")
    # With less than this left, calling the handler could only time out.
    nexus_request_timeout_minimum_ns: int = _limit(
        1500 * MILLISECOND, "component.nexusoperations.limit.request.timeout.min", "nexusoperation.limit.request.timeout.min"
    )
    # 0: the workflow's own timeouts are the only bound.
    nexus_schedule_to_close_timeout_ns: int = _limit(
        0, "component.nexusoperations.limit.scheduleToCloseTimeout", "nexusoperation.limit.scheduleToCloseTimeout"
    )
    # An endpoint of the registry, and a page of their list.
    nexus_endpoint_name_length: int = _limit(200, "limit.endpointNameMaxLength")
    nexus_endpoint_url_length: int = _limit(4 * KIB, "limit.endpointExternalURLMaxLength")
    nexus_endpoint_description_bytes: int = _limit(20_000, "limit.endpointDescriptionMaxSize")
    nexus_endpoint_page: int = _limit(1000, "limit.endpointListMaxPageSize")
    nexus_endpoint_page_default: int = _limit(100, "limit.endpointListDefaultPageSize")

    # -- the store (ours, no key) --------------------------------------------------------------------
    # What may wait in memory to be committed, while the store is slow or away; beyond it new intents wait, and are refused in the end.
    unwritten_bytes: int = _limit(128 * MIB)

    # -- transport (fixed by the official server, no key) -------------------------------------------
    # One message of a connection, whatever it holds.
    grpc_message_bytes: int = _limit(4 * MIB)
    http_api_body_bytes: int = _limit(4 * MIB)
    nexus_http_body_bytes: int = _limit(2 * MIB)

    # -- pages ------------------------------------------------------------------------------------
    # What one answer shows at most.
    history_page: int = _limit(256)
    namespace_page_default: int = _limit(100)
    visibility_page: int = _limit(1000, "frontend.visibilityMaxPageSize")

    # -- long polls ---------------------------------------------------------------------------------
    # A poll for tasks is answered empty after this: shorter than what proxies cut.
    matching_long_poll_ns: int = _limit(MINUTE, "matching.longPollExpirationInterval")
    # A query that waits for a worker is refused shortly before its caller's deadline when nobody has polled for so long.
    query_poller_window_ns: int = _limit(20 * SECOND, "matching.queryPollerUnavailableWindow")
    # A wait for new events or for an update's outcome is answered with what there is.
    history_long_poll_ns: int = _limit(20 * SECOND, "history.longPollExpirationInterval")
    # Pollers (and other long waits) of one namespace at one time, per API.
    concurrent_long_polls_per_namespace: int = _limit(1200, "frontend.namespaceCount")

    # -- rates ------------------------------------------------------------------------------------
    # All calls of a server, and those of one namespace.
    frontend_requests_per_second: int = _limit(2400, "frontend.rps")
    namespace_requests_per_second: int = _limit(2400, "frontend.namespaceRPS")
    # The bucket holds so many seconds of the namespace's rate: short bursts pass.
    namespace_burst_ratio: float = _limit(2.0, "frontend.namespaceBurstRatio")
    # The same for lists and counts, which search.
    visibility_requests_per_second: int = _limit(10, "frontend.namespaceRPS.visibility")
    visibility_burst_ratio: float = _limit(1.0, "frontend.namespaceBurstRatio.visibility")
    # Batch operations of one namespace at a time, and what each does in a second.
    batch_operations_concurrent: int = _limit(1, "frontend.MaxConcurrentBatchOperationPerNamespace")
    batch_operations_per_second: int = _limit(50, "worker.batcherRPS")

    # -- namespaces, versions, schedules --------------------------------------------------------------
    # Shorter than this, a client that polls for its result could come too late.
    namespace_retention_minimum_ns: int = _limit(HOUR, "system.namespaceMinRetentionLocal")
    global_namespace_retention_minimum_ns: int = _limit(DAY, "system.namespaceMinRetentionGlobal")
    # Builds of workers that an operator has marked as bad.
    bad_binaries: int = _limit(10, "frontend.maxBadBinaries")
    # Classes of urgency in a task queue; a task with a higher number belongs to the last one. Each has counters of its own.
    priority_levels: int = _limit(5, "matching.priorityLevels")
    # What is known of the versions of workers.
    deployments_per_namespace: int = _limit(100, "matching.maxDeployments")
    versions_per_deployment: int = _limit(100, "matching.maxVersionsInDeployment")
    versions_per_task_queue: int = _limit(200, "matching.maxVersionsInTaskQueue")
    task_queues_per_deployment: int = _limit(1000, "matching.maxTaskQueuesInDeployment")
    task_queues_per_version: int = _limit(100, "matching.maxTaskQueuesInDeploymentVersion")
    task_queues_per_build_id: int = _limit(20, "limit.taskQueuesPerBuildId")
    # Actions of one schedule that wait for the one that runs (the official server sets these three by one structured key, with others).
    schedule_buffered_actions: int = _limit(1000)
    schedule_catchup_window_ns: int = _limit(365 * DAY)
    schedule_catchup_window_minimum_ns: int = _limit(10 * SECOND)
    schedule_starts_per_second: float = _limit(30.0, "worker.schedulerNamespaceStartWorkflowRPS")
    # Off on the official server, too.
    workflow_time_skipping_enabled: bool = _limit(False, "frontend.WorkflowTimeSkippingEnabled")
    # A workflow that skips for ever would spin.
    workflow_time_skips_per_session: int = _limit(200, "frontend.WorkflowTimeSkippingMaxSkipPerSession")
    # Off by default on the official server, as something new there.
    workflow_pause_enabled: bool = _limit(True, "frontend.WorkflowPauseEnabled")

    @classmethod
    def from_dynamic_config(cls, values: Mapping[str, Any]) -> Limits:
        """The official defaults, changed by dynamic config values. Keys that are no limit are left alone.

        values: official key (in any case) → JSON value. Raises LimitError for a value that its key cannot take.
        """
        names = known_keys()
        changes: dict[str, Any] = {}
        for key, value in values.items():
            name = names.get(key.lower())
            if name is not None:
                changes[name] = _convert(key, name, value)
        return cls(**changes)


@functools.cache
def known_keys() -> Mapping[str, str]:
    """Official key in lower case → field of Limits."""
    return {key.lower(): limit.name for limit in dataclasses.fields(Limits) for key in limit.metadata["keys"]}


def keys_of(name: str) -> tuple[str, ...]:
    """The official keys that set a limit, as the official server spells them; empty for a fixed one. Raises KeyError for no limit."""
    return {limit.name: limit.metadata["keys"] for limit in dataclasses.fields(Limits)}[name]


def parse_duration(value: object) -> int:
    """Nanoseconds of ``"1m30s"``, ``"500ms"``, ``"7d"`` (a day is 24 hours), or of a plain number of seconds; a hundred years at most.

    Raises ValueError.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = f"{value:f}" if isinstance(value, float) else str(value)
    nanoseconds = _nanoseconds(value.strip()) if isinstance(value, str) else None
    if nanoseconds is None:
        raise ValueError('a duration such as "10s", "1m30s" or a number of seconds')
    if nanoseconds > LONGEST_DURATION:
        raise ValueError(f"a duration of at most {LONGEST_DURATION // DAY}d (a hundred years)")
    return nanoseconds


def _nanoseconds(text: str) -> int | None:
    """None when it is no duration."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return _scaled(text, SECOND)
    parts = _DURATION_PART.findall(text)
    if not text or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(_scaled(number, _UNITS[unit]) for number, unit in parts)


def format_duration(nanoseconds: int) -> str:
    """Text that :func:`parse_duration` reads back, in the largest unit that holds it without a fraction: ``"24h"``, ``"1500ms"``."""
    for unit in ("h", "m", "s", "ms", "us"):
        if nanoseconds and nanoseconds % _UNITS[unit] == 0:
            return f"{nanoseconds // _UNITS[unit]}{unit}"
    return f"{nanoseconds}ns" if nanoseconds else "0s"


_UNITS = {"d": DAY, "h": HOUR, "m": MINUTE, "s": SECOND, "ms": MILLISECOND, "us": MICROSECOND, "µs": MICROSECOND, "ns": 1}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)")


def _scaled(number: str, unit: int) -> int:
    """Exact for whole numbers, to the nanosecond for fractions."""
    return int(number) * unit if number.isdigit() else round(float(number) * unit)


def _convert(key: str, name: str, value: object) -> Any:
    default = getattr(_DEFAULTS, name)
    try:
        if isinstance(default, RetryDefaults):
            return _retry_defaults(value)
        if isinstance(default, bool):
            return _boolean(value)
        if name.endswith("_ns"):
            return parse_duration(value)
        return _number(value) if isinstance(default, float) else _whole_number(value)
    except ValueError as wanted:
        raise LimitError(f"dynamic config value {key}: wants {wanted}, got {value!r}") from None


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise ValueError("true or false")


def _whole_number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("a whole number, 0 or more")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ValueError("a number, 0 or more")
    return float(value)


def _retry_defaults(value: object) -> RetryDefaults:
    """From the official structured value; a field left out keeps its default."""
    wanted = "an object with " + ", ".join(_RETRY_FIELDS.values())
    if not isinstance(value, dict):
        raise ValueError(wanted)
    fields = {official.lower(): name for name, official in _RETRY_FIELDS.items()}
    changes: dict[str, Any] = {}
    for official, part in cast("dict[str, object]", value).items():
        name = fields.get(official.lower())
        if name is None:
            raise ValueError(wanted)
        if name == "initial_interval_ns":
            changes[name] = parse_duration(part)
        else:
            changes[name] = _whole_number(part) if name == "maximum_attempts" else _number(part)
    return RetryDefaults(**changes)


_RETRY_FIELDS = {
    "initial_interval_ns": "InitialIntervalInSeconds",
    "maximum_interval_coefficient": "MaximumIntervalCoefficient",
    "backoff_coefficient": "BackoffCoefficient",
    "maximum_attempts": "MaximumAttempts",
}

_DEFAULTS = Limits()
