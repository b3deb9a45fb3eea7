"""The errors a user can mend. Anything else that is raised is a fault of ours."""


class PseudolabelError(Exception):
    """Root of the tree; its message is shown to the user without a traceback."""


class InputError(PseudolabelError):
    """Bad input or config: the message names the thing, the value and the cure (exit code 2)."""


class StoreBusyError(PseudolabelError):
    """Another writer holds the store; the message names it (exit code 3)."""


class StoreError(PseudolabelError):
    """The store itself is damaged or of another format (exit code 1)."""
