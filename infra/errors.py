"""Errors a user can act on.

Every message says what failed, the value seen, what is allowed, and the command or setting that mends it.
The command line prints a `LikenessError` as one line without a traceback and exits with its `exit_code`.
"""


class LikenessError(Exception):
    """A failure with a known remedy.

    Args:
        what: what failed, with the value seen ("--size is 0").
        allowed: what would have been accepted ("an integer from 16 to 1024").
        fix: the command or setting that mends it ("pass --size 96").
    """

    exit_code = 2

    def __init__(self, what: str, *, allowed: str = "", fix: str = "") -> None:
        self.what, self.allowed, self.fix = what, allowed, fix
        super().__init__("; ".join(part for part in (what, f"allowed: {allowed}" if allowed else "", fix) if part))

    def __reduce__(self) -> tuple:
        # Errors cross process borders (Ray, data workers); keyword-only fields are lost by the default pickling.
        return (_rebuild, (type(self), self.what, self.allowed, self.fix))


class StorageError(LikenessError):
    """Object storage that can't be reached, refuses, or holds other bytes than it should: no sample's fault, so it stops a run."""


def _rebuild(kind: type["LikenessError"], what: str, allowed: str, fix: str) -> "LikenessError":
    return kind(what, allowed=allowed, fix=fix)
