from datetime import timedelta

from roadworthy.telemetry.clock import SystemClock


def test_the_clock_is_aware_and_never_goes_back() -> None:
    clock = SystemClock()
    before = clock.monotonic()
    assert clock.now().utcoffset() == timedelta(0)
    assert clock.monotonic() >= before
