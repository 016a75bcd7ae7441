"""Where the text of a task stands, and how to read it: Text, HyperText without its markup, Paragraphs line by line."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ml_backend import Control, Example

# Linear in time on any input: whatever stays open runs to the end of the text.
_markup = re.compile(r"<(script|style)\b.*?(?:</\1\s*>|\Z)|<!--.*?(?:-->|\Z)|<[^<>]*>", re.DOTALL | re.IGNORECASE).sub


@dataclass(frozen=True, slots=True)
class TaskText:
    """The text under a task data ``key``, shown by the object tag ``name`` of some ``type``.

    ``speaker`` and ``said`` are the keys in each line of `Paragraphs` (``nameKey`` and ``textKey``).
    """

    name: str = field(compare=False)
    key: str
    type: str
    speaker: str = "author"
    said: str = "text"

    @classmethod
    def of(cls, control: Control) -> TaskText | None:
        """The text that a control annotates; None when it annotates none that stands in the task."""
        for shown in control.to:
            # The attribute's default is "url" for Paragraphs, but most people's dialogues are in the task all the same.
            remote = shown.type != "Paragraphs" and shown.attributes.get("valueType") == "url"
            if shown.type in {"Text", "HyperText", "Paragraphs"} and shown.key and not remote:
                named = shown.attributes
                keys = named.get("nameKey", "author"), named.get("textKey", "text")
                return cls(shown.name, shown.key, shown.type, *keys)
        return None

    def read(self, example: Example) -> str:
        """The text as a person reads it; empty when there is none. Values of other types are read as they print."""
        value = example.value(self.key)
        if value is None:
            return ""
        if self.type == "Paragraphs":
            # A text in this place is the address of a dialogue, not the dialogue.
            return "\n".join(map(self._line, value)) if isinstance(value, list) else ""
        text = value if isinstance(value, str) else str(value)
        return html.unescape(_markup(" ", text)) if self.type == "HyperText" else text

    def _line(self, line: object) -> str:
        if not isinstance(line, dict):
            return str(line)
        return " ".join(str(line[key]) for key in (self.speaker, self.said) if line.get(key) is not None)
