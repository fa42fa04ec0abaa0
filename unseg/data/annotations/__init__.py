"""The annotation formats that segmentation users keep, behind one interface. See docs/guide/annotations.md."""

from unseg.data.annotations.core import (
    NO_CLASS,
    Annotated,
    Annotations,
    ClassMap,
    ClassTable,
    Segment,
    Unannotated,
)
from unseg.data.annotations.detect import FORMATS, open_annotations
from unseg.data.object_rule import ObjectRule

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
