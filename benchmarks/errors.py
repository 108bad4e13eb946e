"""What a user can mend: the one kind of error that ends a command with one line instead of a traceback.

Its cases are also the built-in errors that they resemble, for callers that go on without what is missing or broken.
"""


class UserError(ValueError):
    """A mistake of the user's, or a state of files and machine that the user can change; the message says how."""


class MissingError(UserError, FileNotFoundError):
    """A file or folder that is needed is not there."""


class MachineError(UserError, RuntimeError):
    """The machine lacks something: room on a disk, a GPU, a network, a package."""
