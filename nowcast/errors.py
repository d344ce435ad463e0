"""The errors that the library raises for what a user gave it.

Each carries one sentence that names what was found and what was wanted, and a hint that says what to do.
Mistakes of a programmer (wrong shapes, wrong types) stay ValueError and TypeError.
"""

from __future__ import annotations


class NowcastError(Exception):
    """Something the user can mend: `message` says what is wrong, `hint` what to do about it."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message} ({self.hint})"


class ConfigError(NowcastError):
    """A configuration, option or argument that cannot be used."""


class DataError(NowcastError):
    """Input data that cannot be used: damaged, foreign, too short, too gappy."""


class MissingPackageError(NowcastError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed",
            f"pip install 'nowcast-pipeline[{extra}]'",
        )
        self._made_of = package, extra, purpose

    def __reduce__(self) -> tuple[type[MissingPackageError], tuple[str, str, str]]:
        # Workers send it home; an exception is made anew from its message alone.
        return MissingPackageError, self._made_of


class MismatchError(NowcastError):
    """A model and the data it is asked to work on do not belong together."""
