"""The errors a user can mend. Anything else that is raised is a fault of ours."""


class PseudolabelError(Exception):
    """Root of the tree; its message is shown to the user without a traceback."""


class InputError(PseudolabelError):
    """Bad input or config: the message names the thing, the value and the cure (exit code 2)."""


class StoreBusyError(PseudolabelError):
    """Another writer holds the store; the message names it (exit code 3)."""


class StorageError(PseudolabelError):
    """Storage does not answer or fails of itself: trying again later may help (exit code 1)."""


class LeakageError(InputError):
    """Side information gives the labels away that a head would learn."""


class StoreError(PseudolabelError):
    """The store itself is damaged or of another format (exit code 1)."""


# What people said is in no other file of the store.
ANSWERED_AGAIN = "`pseudolabel audit --answers FILE`, or --truth"


class DamagedFileError(StoreError):
    """A file of the store is not as it was written: cut short, or a bit flipped."""

    def __init__(self, location: str, name: str, why: str) -> None:
        """Name the store, the file in it and what is wrong with it."""
        then = "the next `pseudolabel run` makes it again"
        if name.startswith("audits/"):
            then = f"then take the answers again that it held: {ANSWERED_AGAIN}"
        if name.startswith("captions/"):
            then = "the next `pseudolabel caption` makes it again"
        super().__init__(
            f"{location}: {name} is damaged ({why}). `pseudolabel verify` sets it aside, and {then}"
        )
        self.location, self.name, self.why = location, name, why

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        """Survive the way out of another process."""
        return type(self), (self.location, self.name, self.why)


def exit_code(error: BaseException) -> int:
    """Return the exit code of a command that ends with an error."""
    if isinstance(error, StoreBusyError):
        return 3
    return 2 if isinstance(error, InputError) else 1
