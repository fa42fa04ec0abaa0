"""Names that Windows takes, and what stands in for the others; nothing here needs Windows."""

from __future__ import annotations

import pytest

from unseg.storage.files import stays_inside
from unseg.storage.windows_names import for_windows, leads_to_a_device


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("con.png", "con_.png"),
        ("sub/NUL", "sub/NUL_"),
        ("Com1.tar.gz", "Com1_.tar.gz"),
        ("lpt¹.jpg", "lpt¹_.jpg"),
        ("aux .png", "aux _.png"),
        ("conin$", "conin$_"),
        ("photo:1.png", "photo_1.png"),
        ('a<b>"c|d?e*f.png', "a_b__c_d_e_f.png"),
        ("tab\there.png", "tab_here.png"),
        ("x .", "x__"),
        ("folder./y", "folder_/y"),
        ("folder \\y", "folder_\\y"),
        ("console.png", "console.png"),
        ("com10.png", "com10.png"),
        ("a.con", "a.con"),
        ("été 2024/ä b.jpg", "été 2024/ä b.jpg"),
        ("./a", "./a"),
    ],
)
def test_name_is_as_windows_takes_it(name: str, taken: str) -> None:
    assert for_windows(name) == taken
    assert for_windows(taken) == taken
    assert stays_inside(taken, windows=True)


@pytest.mark.parametrize("name", ["con", "a/prn.txt", "a/b:c.png", "a/ . /b", "NUL.png/x"])
def test_devices_and_second_contents_are_not_inside(name: str) -> None:
    assert leads_to_a_device(name)
    assert not stays_inside(name, windows=True)
    assert stays_inside(name, windows=False)


@pytest.mark.parametrize("name", ["C:/a", "c:a", "\\a", "a\\..\\b", "//host/share/x", "..", "a/../../b"])
def test_ways_out_stay_ways_out(name: str) -> None:
    assert not stays_inside(name, windows=True)
