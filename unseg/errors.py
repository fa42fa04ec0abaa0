"""Errors and warnings that a user can do something about."""


class UserError(Exception):
    """What went wrong and the remedy, in one line that names the file or option.

    The command line prints it and exits with code 2.
    """


class WeakProtection(UserWarning):
    """An image came back that is not to be called protected: its object changed too little, or not at all."""
