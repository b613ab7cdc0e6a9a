"""What became of a call, judged from what it raised; and one recorded call, of whatever client."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from coord.errors import (
    ClientClosed,
    CoordTimeout,
    ForkedError,
    InvalidArgument,
    LeaseExists,
    LeaseNotFound,
    PermissionDenied,
    RequestRefused,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from google.protobuf.message import Message

    from coord.testing.history import Recorder
    from coord.testing.records import Status

T = TypeVar("T")

# The client says of these that nothing was done. A timeout is not among them: it says how long somebody
# waited, and a judge should not have to believe more than that.
_CERTAINLY_NOT = (
    ClientClosed,
    ForkedError,
    InvalidArgument,
    PermissionDenied,
    RequestRefused,
    Unavailable,
)
# The client repeats grants and revocations: these refusals may be the echo of an attempt that was done.
_ECHOES: dict[str, type[RequestRefused]] = {
    "LeaseGrant": LeaseExists,
    "LeaseRevoke": LeaseNotFound,
}


def outcome_of(error: BaseException, op: str, *, writes: bool) -> Status:
    """Return ``fail`` if a call that raised ``error`` certainly changed nothing, else ``info``.

    ``writes``: whether it could change anything. This is for our client; other clients need their own.
    """
    if not writes:
        return "fail"
    if isinstance(error, CoordTimeout) or not isinstance(error, _CERTAINLY_NOT):
        return "info"
    echo = _ECHOES.get(op)
    return "info" if echo is not None and isinstance(error, echo) else "fail"


async def record_call(
    recorder: Recorder,
    client: str,
    op: str,
    request: Message,
    send: Callable[[], Awaitable[T]],
    *,
    answer: Callable[[T], tuple[Message, bool]],
    writes: bool = True,
    classify: Callable[[BaseException, str], Status] | None = None,
) -> T:
    """Call ``send`` and record ``request`` and the outcome; return or raise what it does.

    Fits any client: ``answer`` makes the wire message of the result, and tells whether the store was changed;
    ``classify`` replaces :func:`outcome_of`. A cancelled write is recorded as ``info``.
    """
    number = recorder.begin(client, op, request.SerializeToString())
    try:
        result = await send()
    except BaseException as error:
        status = outcome_of(error, op, writes=writes) if classify is None else classify(error, op)
        recorder.end(number, status, error=f"{type(error).__name__}: {error}")
        raise
    response, changed = answer(result)
    header = getattr(response, "header", None)
    revision = 0 if header is None else int(header.revision)
    recorder.end(
        number,
        "ok",
        revision=revision,
        changed=changed,
        response=response.SerializeToString(),
    )
    return result
