"""Texts that can be sent: Python's may hold halves of a character, which UTF-8 does not."""

from __future__ import annotations

__all__ = ["error_text", "sendable"]


def sendable(text: str) -> str:
    """The text with U+FFFD for each lone surrogate; two that make a character become it."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def error_text(error: BaseException) -> str:
    """What an error of the application says, so that it can be sent. Never raises.

    Where it is needed, the error is being dealt with: a second one, of a ``__str__`` that fails or
    of a text that no encoding takes, would end more than a call.
    """
    try:
        return sendable(str(error))
    except Exception:
        return f"{type(error).__name__}, whose text cannot be had"
