"""E2: the arithmetic of retries and timeouts, whatever the policy."""

from __future__ import annotations

import math

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import example, given
from hypothesis import strategies as st
from temporalio.api.common.v1 import RetryPolicy
from temporalio.api.enums.v1 import RetryState, TimeoutType
from temporalio.api.failure.v1 import ApplicationFailureInfo, CanceledFailureInfo, Failure, ServerFailureInfo, TerminatedFailureInfo

from perdure.core.clock import DAY, MILLISECOND, SECOND, to_duration
from perdure.core.errors import ApiError
from perdure.core.limits import LONGEST_DURATION, RetryDefaults
from perdure.features.workflow.activity.options import normalize_timeouts
from perdure.features.workflow.activity.retry import backoff, is_retryable, next_delay
from perdure.features.workflow.failures import activity_timeout, truncate
from perdure.features.workflow.validation import check_retry_policy, fill_retry_policy

NOW = 1_750_000_000 * SECOND

durations = st.integers(0, 200 * DAY)


def _policy(initial: int, coefficient: float, longest: int, attempts: int) -> RetryPolicy:
    return RetryPolicy(
        initial_interval=to_duration(initial), backoff_coefficient=coefficient, maximum_interval=to_duration(initial + longest),
        maximum_attempts=attempts,
    )  # fmt: skip


policies = st.builds(_policy, st.integers(MILLISECOND, DAY), st.floats(1, 1e6), st.integers(0, 100 * DAY), st.integers(0, 20))


@given(policies, st.integers(1, 100_000), st.one_of(st.just(0), st.integers(NOW - DAY, NOW + 400 * DAY)))
def test_a_delay_grows_up_to_its_maximum_and_ends_in_time(policy: RetryPolicy, attempt: int, expires_at: int) -> None:
    delay, state = next_delay(NOW, policy, attempt, expires_at, None)
    initial, longest = (d.seconds * SECOND + d.nanos for d in (policy.initial_interval, policy.maximum_interval))
    if 0 < policy.maximum_attempts <= attempt:
        assert (delay, state) == (0, RetryState.RETRY_STATE_MAXIMUM_ATTEMPTS_REACHED)
    elif state == RetryState.RETRY_STATE_TIMEOUT:
        unbounded, _ = next_delay(NOW, policy, attempt, 0, None)
        assert NOW + unbounded > expires_at > 0
    else:
        assert initial <= delay <= longest
        assert not expires_at or NOW + delay <= expires_at
        if not policy.maximum_attempts and not expires_at:
            assert next_delay(NOW, policy, attempt + 1, 0, None)[0] >= delay


@given(policies, st.integers(1, 30), st.integers(1, 300 * DAY))
def test_a_failure_may_ask_for_any_delay(policy: RetryPolicy, attempt: int, delay: int) -> None:
    policy.maximum_attempts = 0
    failure = Failure(application_failure_info=ApplicationFailureInfo(next_retry_delay=to_duration(delay)))
    assert next_delay(NOW, policy, attempt, 0, failure) == (delay, RetryState.RETRY_STATE_IN_PROGRESS)
    assert next_delay(NOW, policy, attempt, NOW + delay - 1, failure) == (0, RetryState.RETRY_STATE_TIMEOUT)


@given(durations, durations, durations, durations, st.one_of(st.just(0), durations))
def test_timeouts_never_exceed_each_other(to_close: int, to_start: int, start_to_close: int, heartbeat: int, run_timeout: int) -> None:
    if not to_close and not start_to_close:
        return
    filled = normalize_timeouts(to_close, to_start, start_to_close, heartbeat, run_timeout)
    filled_to_close, filled_to_start, filled_start_to_close, filled_heartbeat = filled
    assert filled_start_to_close > 0
    assert filled_heartbeat <= filled_start_to_close
    if filled_to_close:
        assert filled_start_to_close <= max(filled_to_close, start_to_close)
    if to_close:
        assert max(filled_to_start, filled_start_to_close) <= to_close
    if run_timeout:
        assert max(filled) <= run_timeout
        assert filled_to_start > 0
    assert normalize_timeouts(*filled, run_timeout) == filled


seconds_of_any_duration = st.integers(-(2**63), 2**63 - 1)


@given(st.floats(), st.integers(-10, 10), seconds_of_any_duration, st.just(0) | seconds_of_any_duration)
@example(2.0, 0, 2**62, 0)
@example(2.0, 0, -(2**62), 0)
def test_a_policy_that_passes_the_checks_has_a_delay(coefficient: float, attempts: int, initial: int, longest: int) -> None:
    policy = RetryPolicy(
        initial_interval=Duration(seconds=initial), backoff_coefficient=coefficient, maximum_interval=Duration(seconds=longest),
        maximum_attempts=attempts,
    )  # fmt: skip
    fill_retry_policy(policy, RetryDefaults())
    try:
        check_retry_policy(policy)
    except ApiError:
        return
    for attempt in (1, 2, 1000, 10**9):
        next_delay(NOW, policy, attempt, 0, None)


@pytest.mark.parametrize("coefficient", [math.nan, -2.0, -math.inf])
def test_a_policy_that_was_never_looked_at_asks_for_no_retry(coefficient: float) -> None:
    """One attempt: no check has seen the coefficient. An operator's pause or change makes another attempt possible."""
    policy = RetryPolicy(initial_interval=to_duration(SECOND), backoff_coefficient=coefficient, maximum_attempts=1)
    check_retry_policy(policy)
    assert backoff(policy, 2) in (0, LONGEST_DURATION)
    policy.maximum_attempts = 0
    assert next_delay(NOW, policy, 2, NOW + SECOND, None) == (0, RetryState.RETRY_STATE_TIMEOUT)


def test_which_failures_are_retried() -> None:
    def application(**fields: object) -> Failure:
        return Failure(application_failure_info=ApplicationFailureInfo(**fields))  # type: ignore[arg-type]  # pyright: ignore

    assert is_retryable(Failure(), [])
    assert is_retryable(application(type="T"), ["U"])
    assert not is_retryable(application(type="T"), ["U", "T"])
    assert not is_retryable(application(non_retryable=True), [])
    assert not is_retryable(Failure(canceled_failure_info=CanceledFailureInfo()), [])
    assert not is_retryable(Failure(terminated_failure_info=TerminatedFailureInfo()), [])
    assert is_retryable(Failure(server_failure_info=ServerFailureInfo()), [])
    assert not is_retryable(Failure(server_failure_info=ServerFailureInfo(non_retryable=True)), [])
    start_to_close = activity_timeout(TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE)
    assert is_retryable(start_to_close, ["TemporalTimeout:Heartbeat"])
    assert not is_retryable(start_to_close, ["TemporalTimeout:StartToClose"])
    assert not is_retryable(activity_timeout(TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_CLOSE), [])


@given(st.text(max_size=300), st.text(max_size=300), st.text(max_size=300), st.integers(16, 500), st.integers(0, 5))
def test_a_truncated_failure_is_small_and_keeps_what_decides(message: str, stack: str, kind: str, size: int, causes: int) -> None:
    failure = Failure(message=message, stack_trace=stack, application_failure_info=ApplicationFailureInfo(type=kind, non_retryable=True))
    for _ in range(causes):
        failure = Failure(message=message, stack_trace=stack, cause=failure, application_failure_info=ApplicationFailureInfo(type=kind))
    cut = truncate(failure, size)
    assert cut.ByteSize() <= size + 16
    assert message.startswith(cut.message)
    assert kind.startswith(cut.application_failure_info.type)
    assert cut.application_failure_info.non_retryable == failure.application_failure_info.non_retryable
