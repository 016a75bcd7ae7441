"""A terminal that shows what others wrote (titles, reasons, errors) and obeys none of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import orjson
import rich.console
from rich.segment import Segment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import ConsoleOptions, RenderableType

# C0 but for the line feed, DEL, C1, and what ends a line or turns its direction.
_CODES = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def one_line(text: str) -> str:
    """The text without breaks: what begins a line may look like something that we say."""
    return " ".join(text.split())


class Console(rich.console.Console):
    """Rich's console. Its own colours and moves stand beside the text: a code within a text is somebody else's."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Rich's segments, with codes taken out of their texts."""
        for segment in super().render(renderable, options):
            if segment.control is None and _CODES.search(segment.text):
                yield Segment(_CODES.sub("\N{REPLACEMENT CHARACTER}", segment.text), segment.style)
            else:
                yield segment

    def json(self, value: Any) -> None:  # noqa: ANN401 - whatever orjson writes
        """JSON for scripts, indented; codes are escaped in it."""
        text = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
        self.out(_CODES.sub(lambda found: f"\\u{ord(found[0]):04x}", text), highlight=False)
