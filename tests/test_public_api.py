"""The public face: what `import unseg` gives, without loading anything before it is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import unseg
from tests.support.fake_generator import FakeGenerator, loaded
from unseg.errors import UserError
from unseg.protecting import network_protector, one_call


def test_importing_the_package_loads_nothing() -> None:
    program = (
        "import sys, unseg; print({'torch', 'numpy', 'PIL'} & set(sys.modules), set(unseg.__all__) - set(dir(unseg)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert ran.stdout == "set() set()\n"


def test_every_public_name_is_there_and_another_is_refused() -> None:
    names = {"Budget", "Protector", "load_generator", "protect", "protect_folder", "verify", "__version__"}
    names.add("WeakProtection")
    assert set(unseg.__all__) == names and all(getattr(unseg, name) is not None for name in names)
    with pytest.raises(AttributeError, match="module 'unseg' has no attribute 'protekt'"):
        unseg.protekt  # noqa: B018  # reading it is the test


def test_a_named_generator_is_loaded_once_for_all_one_off_calls(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened: list[str] = []

    def open_fake(generator: object, device: str) -> FakeGenerator:
        opened.append(str(generator))
        return FakeGenerator()

    monkeypatch.setattr(network_protector, "fastest_generator", open_fake)
    one_call._cached_protector.cache_clear()
    weights, image = tmp_path / "weights.safetensors", np.full((9, 14, 3), 100, np.uint8)
    weights.write_bytes(b"1")
    for generator in ("compact", "compact", weights, weights):
        assert (unseg.protect(image, generator=generator, whole_image=True) != image).any()
    assert opened == ["compact", str(weights)]
    weights.touch()
    unseg.protect(image, generator=weights, budget=unseg.Budget(1, 1), whole_image=True)
    assert opened == ["compact", str(weights), str(weights)]
    one_call._cached_protector.cache_clear()


def test_a_generator_that_takes_codes_is_loaded_once_for_all_keys(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened: list[str] = []

    def open_fake(generator: object, device: str) -> FakeGenerator:
        opened.append(str(generator))
        fake = FakeGenerator()
        fake.takes_codes = True
        return fake

    for module in (one_call, network_protector):
        monkeypatch.setattr(module, "fastest_generator", open_fake)
    weights, image = tmp_path / "coded.safetensors", np.full((9, 14, 3), 100, np.uint8)
    weights.write_bytes(b"1")
    key_file = tmp_path / "k.key"
    key_file.write_text("ab" * 32)
    for key in (b"1" * 32, b"1" * 32, b"2" * 32, key_file, str(key_file)):
        assert (unseg.protect(image, generator=weights, key=key, whole_image=True) != image).any()
    assert opened == [str(weights)]
    weights.touch()
    unseg.protect(image, generator=weights, key=b"1" * 32, noise="sam", whole_image=True)
    assert opened == [str(weights)] * 2
    one_call._kept_generator.cache_clear()


def test_tints_are_loaded_once_for_all_one_off_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    real = network_protector.fastest_generator

    def counted(generator: object, device: str) -> object:
        opened.append(generator)
        return real(generator, device)

    monkeypatch.setattr(network_protector, "fastest_generator", counted)
    one_call._cached_protector.cache_clear()
    image, classes = np.full((9, 14, 3), 100, np.uint8), np.full((9, 14), 4)
    made = [unseg.protect(image, noise="tint", codes={4: 2, 0: 1}, classes=classes) for _ in range(2)]
    assert len(opened) == 1 and np.array_equal(*made) and (made[0] != image).any()
    with pytest.raises(UserError, match="key, codes, survive_grey and mask_by_contrast: are for noise of codes"):
        unseg.protect(image, generator="compact", key=b"1" * 32, whole_image=True)
    one_call._cached_protector.cache_clear()


def test_one_off_calls_and_protectors_make_the_same_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 70, 3), np.uint8)
    mask = np.zeros((40, 70), bool)
    mask[5:20, 30:66] = True
    budget = unseg.Budget(object=5, background=1)
    once = unseg.protect(image, mask=mask, generator=loaded(), budget=budget)
    assert np.array_equal(once, unseg.Protector(loaded(), budget)(image, mask))
    change = np.abs(once.astype(int) - image).max(axis=2)
    assert change[mask].max() == 5 and change[~mask].max() == 1
    boxed = unseg.protect(image, boxes=[[30, 5, 65, 19]], generator=loaded(), budget=budget)
    assert np.abs(boxed.astype(int) - image).max(axis=2)[mask].max() == 5


def test_a_folder_may_be_given_by_its_name_alone(tmp_path: Path) -> None:
    from unseg.storage.image_encoding import write_png

    write_png(tmp_path / "in" / "a.png", np.random.default_rng(0).integers(0, 256, (20, 33, 3), np.uint8))
    summary = unseg.protect_folder(str(tmp_path / "in"), tmp_path / "out", generator=loaded(), whole_image=True)
    assert [entry.output for entry in summary.entries] == ["a.png"] and summary.exit_code == 0
    assert unseg.verify(tmp_path / "out").exit_code == 0


@pytest.mark.parametrize("name", ["masks", "boxes", "annotations"])
def test_what_belongs_to_a_folder_is_given_by_its_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"^{name}: give the path of a file or folder, not a dict$"):
        unseg.protect_folder(tmp_path, tmp_path / "out", **{name: {"a.png": [[0, 0, 5, 3]]}})
    assert not (tmp_path / "out").exists()


def test_a_folder_takes_every_option_of_the_command_by_its_name(tmp_path: Path) -> None:
    import inspect

    import typer

    from unseg.commands.protect import protect
    from unseg.protecting.named_settings import RunOptions
    from unseg.protecting.run import protect as protect_folder

    application = typer.Typer(add_completion=False)
    application.command()(protect)
    command = typer.main.get_command(application)
    options = {
        name.removeprefix("--").replace("-", "_")
        for parameter in command.params
        for name in parameter.opts
        if name.startswith("--")
    }
    of_the_command_alone = {"quiet", "json", "config", "help", "ray_address"}  # the last is a part of an `Engine`
    known = {*inspect.signature(protect_folder).parameters, *RunOptions.__annotations__}
    assert options - of_the_command_alone <= known


def test_options_of_a_folder_stand_above_its_settings(tmp_path: Path) -> None:
    from unseg.protecting.manifest import read_manifest
    from unseg.protecting.settings import ProtectSettings
    from unseg.storage.image_encoding import write_png

    write_png(tmp_path / "in" / "a.png", np.random.default_rng(0).integers(0, 256, (20, 33, 3), np.uint8))
    settings = ProtectSettings(budget=unseg.Budget(3, 1), format="webp", metadata="none")
    given = {"whole_image": True, "epsilon": 5, "names": "keep", "ignore_label": -1}
    unseg.protect_folder(tmp_path / "in", tmp_path / "out", settings, **given)
    found = read_manifest(tmp_path / "out").header["settings"]
    assert (found["object_budget"], found["format"], found["names"], found["metadata"]) == (5, "webp", "keep", "none")
