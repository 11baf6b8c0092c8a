"""A part of a user's string with its position, so that an error can point at it."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import ALLOCATION_STRING, AllocationError

# Keyboards of East Asia type these in place of the ASCII signs; one for one, so positions stay true.
_FULL_WIDTH = str.maketrans("；，：％＊＃．", ";,:%*#.")


@dataclass(frozen=True)
class SourceSpan:
    """`source[start:end]`, without the white space at its ends; `what` is the name that errors give the source."""

    source: str
    start: int
    end: int
    what: str = ALLOCATION_STRING

    @classmethod
    def of(cls, text: str, what: str = ALLOCATION_STRING) -> SourceSpan:
        return cls(text.translate(_FULL_WIDTH), 0, len(text), what).part(0, len(text))

    @property
    def text(self) -> str:
        return self.source[self.start : self.end]

    def part(self, start: int, end: int) -> SourceSpan:
        """The stretch from `start` to `end`, counted from the beginning of this piece."""
        inner = self.source[self.start + start : min(self.end, self.start + end)]
        begin = self.start + start + len(inner) - len(inner.lstrip())
        return SourceSpan(self.source, begin, max(begin, self.start + start + len(inner.rstrip())), self.what)

    def split(self, separator: str) -> list[SourceSpan]:
        spans, begin = [], 0
        for item in self.text.split(separator):
            spans.append(self.part(begin, begin + len(item)))
            begin += len(item) + len(separator)
        return spans

    def error(self, reason: str, suggestion: str = "") -> AllocationError:
        return AllocationError(self.source, (self.start, self.end), reason, suggestion, self.what)
