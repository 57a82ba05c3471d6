"""How the end of a server's coroutine becomes the end of the process."""

import asyncio

import pytest

from roadworthy.cli.ending import EXIT_STUCK, run
from roadworthy.domain.errors import ConfigError
from roadworthy.engine.supervision import EngineStuck


class LastResort:
    """Notes the code with which the process would end at the latest."""

    def __init__(self) -> None:
        self.codes: list[int] = []

    def __call__(self, code: int) -> None:
        self.codes.append(code)


@pytest.fixture
def last_resort() -> LastResort:
    return LastResort()


async def _fail(error: BaseException) -> None:
    """Raise from within two task groups, as the engine does."""
    async with asyncio.TaskGroup() as outer:
        outer.create_task(_within(error))
        await asyncio.Event().wait()


async def _within(error: BaseException) -> None:
    async with asyncio.TaskGroup():
        raise error


def test_a_stuck_engine_ends_the_process_with_its_reason(
    capsys: pytest.CaptureFixture[str], last_resort: LastResort
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(_fail(EngineStuck("every slot has been held for 30 s")), last_resort=last_resort)
    assert (ended.value.code, last_resort.codes) == (EXIT_STUCK, [EXIT_STUCK])
    assert capsys.readouterr().err == "roadworthy: every slot has been held for 30 s; ending the process\n"


def test_an_error_of_ours_reaches_the_command_line_as_itself(last_resort: LastResort) -> None:
    with pytest.raises(ConfigError, match="the key was revoked"):
        run(_fail(ConfigError("the key was revoked")), last_resort=last_resort)


def test_a_defect_keeps_its_traceback(last_resort: LastResort) -> None:
    with pytest.raises(ExceptionGroup) as raised:
        run(_fail(ZeroDivisionError()), last_resort=last_resort)
    assert raised.group_contains(ZeroDivisionError)
    assert last_resort.codes == []
