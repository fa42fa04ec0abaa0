"""What can be told of the page without a browser: contrasts, and that the manual's pictures are there."""

from __future__ import annotations

import re

import pytest
from PIL import Image

from tests.support.web_process import ROOT
from unseg.web.routes import page_files

PAIRS = [
    *(("ink", ground) for ground in ("paper", "card")),
    *(("soft", ground) for ground in ("paper", "card")),
    *(("accent", ground) for ground in ("paper", "card")),
    *(("wrong", ground) for ground in ("paper", "card")),
    *(("good", ground) for ground in ("paper", "card")),
    ("on-accent", "accent"),
]


def colours(scheme):
    blocks = re.findall(r":root \{(.*?)\}", page_files()["style.css"][0].decode(), re.DOTALL)
    found = dict(re.findall(r"--([\w-]+): (#\w+);", blocks[0]))
    return found if scheme == "light" else found | dict(re.findall(r"--([\w-]+): (#\w+);", blocks[1]))


def luminance(colour):
    """Relative luminance as WCAG 2 defines it."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    values = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("ink", "ground"), PAIRS)
def test_words_can_be_read(scheme, ink, ground):
    lighter, darker = sorted((luminance(colours(scheme)[name]) for name in (ink, ground)), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5


@pytest.mark.parametrize(
    "name", ["web-mark-light", "web-compare-light", "web-files-dark", "web-360-light", "web-360-dark"]
)
def test_the_manual_has_its_pictures(name):
    with Image.open(ROOT / f"docs/pictures/{name}.webp") as picture:
        assert picture.width == (360 if "360" in name else 1280)
    assert f"{name}.webp" in (ROOT / "docs/guide/web.md").read_text(encoding="utf-8")
