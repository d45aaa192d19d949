"""Every limit is in force: a number that nothing reads would promise what nobody keeps."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

from perdure.core.limits import Limits
from tests.tidy.source import parse, python_files

NOT_YET = frozenset(
    {
        # Warnings: log lines and metrics about what will soon be too big.
        "memo_size_warn_bytes",
        "history_size_warn_bytes",
        "history_count_warn",
        "mutable_state_size_warn_bytes",
        "activity_failure_size_warn_bytes",
        # Nexus.
        "nexus_operations_per_workflow",
        "nexus_service_name_length",
        "nexus_operation_name_length",
        "nexus_operation_token_bytes",
        "nexus_header_bytes",
        "nexus_request_timeout_ns",
        "nexus_request_timeout_minimum_ns",
        "nexus_schedule_to_close_timeout_ns",
        "nexus_endpoint_name_length",
        "nexus_endpoint_url_length",
        "nexus_endpoint_description_bytes",
        "nexus_endpoint_page",
        "nexus_endpoint_page_default",
        "nexus_http_body_bytes",
        # The HTTP API.
        "http_api_body_bytes",
        # Rates of requests.
        "frontend_requests_per_second",
        "namespace_requests_per_second",
        "namespace_burst_ratio",
        "visibility_requests_per_second",
        "visibility_burst_ratio",
        # Batch operations.
        "batch_operations_concurrent",
        "batch_operations_per_second",
        # Schedules.
        "schedule_buffered_actions",
        "schedule_catchup_window_ns",
        "schedule_catchup_window_minimum_ns",
        "schedule_starts_per_second",
        # Worker versions and deployments.
        "deployments_per_namespace",
        "versions_per_deployment",
        "versions_per_task_queue",
        "task_queues_per_deployment",
        "task_queues_per_version",
        "task_queues_per_build_id",
        # Time skipping.
        "workflow_time_skipping_enabled",
        "workflow_time_skips_per_session",
        # Standalone executions, and clusters of clusters.
        "user_metadata_summary_bytes",
        "user_metadata_details_bytes",
        "links_per_execution",
        "callbacks_per_workflow",
        "global_namespace_retention_minimum_ns",
    }
)
"""Limits of what is still to be built. This list only shrinks: a new limit comes with what it limits."""


def test_every_limit_is_read_somewhere() -> None:
    names = {limit.name for limit in dataclasses.fields(Limits)}
    read: set[str] = set()
    for file in python_files("src"):
        if file != Path("src/perdure/core/limits.py"):
            read |= {node.attr for node in ast.walk(parse(file)) if isinstance(node, ast.Attribute)}
    assert sorted(names - read) == sorted(NOT_YET)
