"""The annotation formats that segmentation users keep, behind one interface. See docs/annotations.md."""

from unseg.data.annotations.core import (
    NO_CLASS,
    Annotated,
    Annotations,
    ClassMap,
    ClassTable,
    ObjectRule,
    Segment,
    Unannotated,
)
from unseg.data.annotations.detect import FORMATS, open_annotations

__all__ = [
    "FORMATS",
    "NO_CLASS",
    "Annotated",
    "Annotations",
    "ClassMap",
    "ClassTable",
    "ObjectRule",
    "Segment",
    "Unannotated",
    "open_annotations",
]
