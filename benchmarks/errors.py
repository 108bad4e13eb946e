"""What a user can mend: the one kind of error that ends a command with one line instead of a traceback.

Its cases are also the built-in errors that they resemble, for callers that go on without what is missing or broken.
"""

import errno

from benchmarks.names import printable


class UserError(ValueError):
    """A mistake of the user's, or a state of files and machine that the user can change; the message says how."""


class MissingError(UserError, FileNotFoundError):
    """A file or folder that is needed is not there."""


class MachineError(UserError, RuntimeError):
    """The machine lacks something: room on a disk, a GPU, a network, a package."""


FULL_OR_CLOSED = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE}


def mendable(error: BaseException) -> bool:
    """Whether a user can mend what went wrong; what the system says of a file, a disk or a connection counts."""
    if isinstance(error, OSError):
        about_a_file = error.filename is not None or error.errno in FULL_OR_CLOSED
        return about_a_file or isinstance(error, UserError | ConnectionError | TimeoutError)
    return isinstance(error, UserError)


def one_line(error: BaseException) -> str:
    """The message of an error in one line, or its type where it has none."""
    return printable(" ".join(str(error).split())) or type(error).__name__
