"""`~` and `~name` at the beginning of a path: whose home is meant, where there is one."""

import os
from pathlib import Path


def without_tilde(given: str | Path) -> Path:
    """Return a path with the home that it begins with; of nobody's, as it is, as shells do.

    >>> without_tilde("~nobody-of-this-name/a.jpg").parts
    ('~nobody-of-this-name', 'a.jpg')
    """
    return Path(os.path.expanduser(given))  # noqa: PTH111 - Path's own raises RuntimeError
