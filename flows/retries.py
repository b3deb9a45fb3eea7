"""Retries: which faults of a step may pass by themselves, and how long to wait for that."""

import errno
from typing import TYPE_CHECKING, Any

from pipeline.errors import PseudolabelError, StorageError

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

BACK_OFF = (2.0, 10.0, 60.0)  # seconds before each further try; storage has tried by itself before
# Of a disk: it is full, write-protected, or what it is asked for is not there.
_LASTING = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.ENOENT, errno.EEXIST),
    *(errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL),
}


def may_pass(fault: BaseException) -> bool:
    """Tell whether a fault is one of storage or the network that may be over in a moment.

    >>> may_pass(TimeoutError("no answer")), may_pass(OSError(errno.ENOSPC, "disk full"))
    (True, False)
    """
    import httpx

    from pipeline.remote import RefusedError

    if isinstance(fault, PseudolabelError):
        return isinstance(fault, StorageError)
    if isinstance(fault, OSError):
        lasting = (RefusedError, FileNotFoundError, PermissionError)
        return not isinstance(fault, lasting) and fault.errno not in _LASTING
    return isinstance(fault, httpx.TransportError)


def worth_another_try(task: object, run: object, state: "State[Any]") -> bool:  # noqa: ARG001
    """Tell Prefect, which asks so, whether a step that failed is tried again."""
    fault = state.result(raise_on_failure=False)
    return isinstance(fault, Exception) and may_pass(fault)
