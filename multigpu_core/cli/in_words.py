"""Errors as a user reads them."""

from __future__ import annotations


def in_words(error: BaseException) -> str:
    """The message of an error; that of the operating system without its number, which helps nobody."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    reason = error.strerror[0].lower() + error.strerror[1:]
    return f"{error.filename}: {reason}." if error.filename else f"{reason}."
