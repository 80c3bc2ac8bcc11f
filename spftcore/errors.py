"""Errors a user can act on: the message says what happened, why, and the remedy."""


class SpftError(Exception):
    """A failure the user can mend. Commands print the message alone and exit with code 1."""


class UsageError(SpftError):
    """A wrong option, key or argument. Commands print the message alone and exit with code 2."""
