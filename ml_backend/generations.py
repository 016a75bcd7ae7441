"""Which `LabelStudioMLBase` there is: the one module that knows the generations of label-studio-ml.

1.0.9 is on the package index, 2.x in its repository only. Where neither is installed, a stand-in with the same
interface takes its place, so that the same model class runs everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:

    class LabelStudioMLBase:
        """What our own code may rely on, whichever generation is installed."""

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

else:
    try:
        from label_studio_ml.model import LabelStudioMLBase
    except ImportError:

        class LabelStudioMLBase:
            """Stands in where label-studio-ml is not installed."""

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                """Take what either generation takes."""


__all__ = ["LabelStudioMLBase"]
