"""What any annotations at all must stand: opened and read, they give masks of the image's size or a UserError."""

from __future__ import annotations

from pathlib import Path

from unseg.data.annotations import Annotations, ObjectRule, open_annotations
from unseg.errors import UserError

RULES = (ObjectRule(), ObjectRule("things"), ObjectRule((1, 2)), ObjectRule(by_class=True))


def use(path: Path, images: Path, named: dict[str, tuple[int, int]]) -> int:
    """Everything that protect would ask of annotations. Returns how many images could be read.

    named: image name → height, width. Whatever is wrong must be a UserError of one line; anything else goes up.
    """
    try:
        annotations = open_annotations(path, images)
    except UserError as error:
        check_message(error)
        return 0
    names = annotations.names()
    assert len(set(names)) == len(names)
    readable = 0
    for name, size in named.items():
        try:
            annotated = annotations.read(name, *size)
            for rule in filter(lambda rule: answers(annotations, rule), RULES):
                assert annotated.select(rule).shape == size
            for segment in annotated.segments[:20]:
                assert segment.mask.shape == size
            readable += 1
        except UserError as error:
            check_message(error)
    return readable


def answers(annotations: Annotations, rule: ObjectRule) -> bool:
    try:
        annotations.check_rule(rule)
    except UserError as error:
        check_message(error)
        return False
    return True


def check_message(error: UserError) -> None:
    text = str(error)
    assert "\n" not in text and len(text) < 1500, text[:3000]
