"""The published generator with codes as a prompt: it starts as the one without, trains, resumes and protects."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import unseg
from segment_anything_training import build
from segment_anything_training.generator import NoiseGenerator, is_noise_part
from segment_anything_training.prompt_batch import Prompts
from segment_anything_training.sam import SamConfig
from tests.support.training_runs import made_samples, run, same
from unseg.commands.evaluate import load_noise
from unseg.data.views import draw_views
from unseg.errors import UserError
from unseg.method.code_prompts import code_prompt
from unseg.method.coded_noise import apply_codes
from unseg.method.config import Budget
from unseg.method.patterns import ABSENCE, BOOK, NO_CODE, ONE_CODE_BOOK
from unseg.protecting.manifest import MANIFEST, read_manifest
from unseg.protecting.run import ProtectSettings, protect
from unseg.protecting.verification import verify
from unseg.storage.key_file import key_hash, read_key
from unseg.storage.weights import load_generator, save_generator
from unseg.training import loop
from unseg.training.checkpoints import RunFolder, read_state
from unseg.training.loop import run_settings, take_step
from unseg.training.players import Training
from unseg.training.recipes import recipe
from unseg.training.steps import prepare

TINY = SamConfig(64, embed_dim=32, depth=2, num_heads=2, global_blocks=(1,), window=3)


@pytest.fixture
def config(monkeypatch):
    """The paper's recipe with tiny networks: a step of each player in turn, checkpoints after steps 2, 4 and 5."""
    monkeypatch.setitem(build.SAM_CONFIGS, "vit_b", TINY)
    monkeypatch.setattr(build, "SURROGATE_IMAGE_SIZE", 64)
    return dataclasses.replace(
        recipe("paper"),
        batch_size=2,
        view_size=64,
        frame_size=64,
        surrogate_sizes=(64,),
        loss_points=64,
        generator_start="random",
        generator_learning_rate=1e-3,
        phases=("surrogate", "generator"),
        steps_per_phase=1,
        total_phases=5,
        decay_phase=5,
        log_every=5,
        checkpoint_every=2,
        code_prompt=True,
    )


def generator_of(code_prompt: bool) -> NoiseGenerator:
    torch.manual_seed(3)
    return NoiseGenerator(dataclasses.replace(TINY, code_prompt=code_prompt)).eval()


def with_an_effect(network: NoiseGenerator) -> NoiseGenerator:
    """As if it had been trained: codes count, and the noise uses most of the budget."""
    torch.manual_seed(4)
    torch.nn.init.normal_(network.noise_code_embedding[-1].weight, std=0.5)
    with torch.no_grad():
        for mlp in network.mask_decoder.noise_mlp:
            mlp.layers[-1].weight.mul_(100)
    return network


# --- the prompt


def test_a_prompt_holds_the_signs_of_what_codes_add():
    """At the image's own size, where nothing is averaged; padded with zeros below."""
    image = np.random.default_rng(5).integers(100, 150, (40, 52, 3)).astype(np.uint8)
    codes = np.full((40, 52), ABSENCE, np.uint8)
    codes[3:20, 5:31], codes[22:40, 30:52], codes[:3, 40:] = 2, 7, NO_CODE
    key = bytes(range(32))
    added = (apply_codes(image, codes, BOOK, key, Budget(8, 0)).astype(int) - image) / 8
    prompt = code_prompt(image, codes, BOOK, key, side=52)
    assert prompt.shape == (3, 52, 52) and prompt.dtype == np.float32
    found = prompt.transpose(1, 2, 0)
    np.testing.assert_allclose(found[:40], added, atol=1e-6)
    assert (found[40:] == 0).all() and set(np.unique(added)) == {-1, 0, 1}
    half = code_prompt(image, codes, BOOK, key, side=26).transpose(1, 2, 0)
    assert np.abs(half).max() <= 1 and (half[21:] == 0).all()  # row 20 still sees some of row 39
    np.testing.assert_allclose(half.mean(axis=(0, 1)), found.mean(axis=(0, 1)), atol=0.01)


def test_grey_images_have_grey_signs():
    image = np.repeat(np.random.default_rng(5).integers(100, 150, (32, 32, 1)).astype(np.uint8), 3, axis=2)
    found = code_prompt(image, np.full((32, 32), 5, np.uint8), BOOK, bytes(32), side=32)
    assert (found[0] == found[1]).all() and (found[0] == found[2]).all() and np.abs(found).min() == 1


# --- the network


def test_a_new_generator_with_codes_makes_the_noise_of_one_without():
    plain, coded = generator_of(code_prompt=False), generator_of(code_prompt=True)
    added = set(coded.state_dict()) - set(plain.state_dict())
    assert same({name: value for name, value in coded.state_dict().items() if name not in added}, plain.state_dict())
    assert added and all(is_noise_part(name) for name in added)
    images, mask = torch.rand(2, 3, 64, 64), torch.zeros(2, 1, 16, 16)
    mask[:, :, 2:9, 5:] = 255
    codes = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        for fields in ({}, {"masks": mask}, {"boxes": torch.tensor([[3.0, 4, 40, 30]] * 2)}):
            without = plain(images, Prompts(**fields))
            assert torch.equal(coded(images, Prompts(**fields, codes=codes)), without)
        other = with_an_effect(coded)(images, Prompts(masks=mask, codes=codes))
        assert not torch.equal(other, plain(images, Prompts(masks=mask)))
        alone = coded(images[1:], Prompts(masks=mask, codes=codes)[1:])
        assert torch.allclose(alone, other[1:], atol=1e-4)


@pytest.mark.parametrize(
    ("takes", "codes", "message"),
    [
        (True, None, "takes them"),
        (False, torch.zeros(1, 3, 16, 16), "takes none"),
        (True, torch.zeros(1, 3, 64, 64), "expected B×3×16×16"),
        (True, torch.zeros(1, 1, 16, 16), "expected B×3×16×16"),
        (True, torch.zeros(2, 3, 16, 16), "2 entries for 1 images"),
    ],
)
def test_codes_that_do_not_fit_are_named(takes, codes, message):
    with pytest.raises(ValueError, match=message):
        generator_of(takes)(torch.zeros(1, 3, 64, 64), Prompts(codes=codes))


def test_batches_keep_their_codes():
    mask, codes = torch.zeros(1, 1, 16, 16), torch.rand(1, 3, 16, 16)
    joined = Prompts.join([Prompts(masks=mask, codes=codes), Prompts(codes=codes / 2)])
    assert joined.given.tolist() == [[True, False, False], [False, False, False]]
    assert torch.equal(joined.codes, torch.cat([codes, codes / 2]))
    assert torch.equal(joined.of_image(1).codes, codes / 2) and joined.of_image(1).masks is None
    assert torch.equal(joined.of_image(0).masks, mask) and torch.equal(joined[1:].codes, codes / 2)
    with pytest.raises(ValueError, match="of all images of a batch, or of none"):
        Prompts.join([Prompts(codes=codes), Prompts(masks=mask)])


# --- the training


def test_only_a_generator_derived_from_sam_takes_codes():
    with pytest.raises(UserError, match="--set generator=compact: takes no codes as a prompt; choose from vit_b"):
        Training.start(dataclasses.replace(recipe("smoke"), code_prompt=True))


def test_codes_are_those_of_the_slot_and_lie_on_the_object(config):
    samples = made_samples()
    views = draw_views(samples, config, step=3)
    batch = prepare(views, config, (0.25, 0.25))
    codes = batch.generator_prompts.codes
    assert codes.shape == (2, 3, 16, 16)
    outside = torch.nn.functional.max_pool2d(batch.labels, 12, stride=4, padding=4) == 0  # and not beside the object
    assert (codes * outside == 0).all() and codes.abs().amax(dim=(1, 2, 3)).min() > 0.2
    doubled = dataclasses.replace(config, batch_size=4)
    both = prepare(draw_views(samples, doubled, step=3), doubled, (0.25, 0.25)).generator_prompts.codes
    second = prepare(draw_views(samples, config, step=3, rank=1, world_size=2), config, (0.25, 0.25), rank=1)
    first = prepare(draw_views(samples, config, step=3, rank=0, world_size=2), config, (0.25, 0.25), rank=0)
    assert torch.equal(torch.cat([first.generator_prompts.codes, second.generator_prompts.codes]), both)
    without = prepare(views, dataclasses.replace(config, code_prompt=False), (0.25, 0.25))
    assert without.generator_prompts.codes is None and torch.equal(
        without.generator_prompts.given, batch.generator_prompts.given
    )


def test_training_with_codes_moves_their_layers_and_resumes_to_the_bit(config, tmp_path, monkeypatch):
    run(tmp_path / "whole", config)

    class Killed(BaseException):
        pass

    def die(training, *arguments):
        if training.step == 3:
            raise Killed
        return take_step(training, *arguments)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop, "take_step", die)
        run(tmp_path / "broken", config)
    run(tmp_path / "broken", config)
    files = [tmp_path / name / "generator.safetensors" for name in ("whole", "broken")]
    left, right = (load_generator(file).network for file in files)
    assert same(left.state_dict(), right.state_dict())
    assert left.takes_codes and left.noise_code_embedding[-1].weight.abs().max() > 0
    assert json.loads(load_generator(files[0]).metadata["config"])["code_prompt"] is True
    facts = json.loads(RunFolder(tmp_path / "whole").path(5).with_suffix(".json").read_text())
    assert facts["settings"]["code_prompt"] is True
    with pytest.raises(UserError, match="code_prompt: true, now null"):
        run(tmp_path / "whole", dataclasses.replace(config, code_prompt=False))


def test_without_codes_settings_and_files_are_those_of_before(config, tmp_path):
    plain = dataclasses.replace(config, code_prompt=False)
    assert "code_prompt" not in run_settings(plain, {})
    run(tmp_path, plain)
    assert "code_prompt" not in json.loads(load_generator(tmp_path / "generator.safetensors").metadata["config"])
    assert not any("code_embedding" in name for name in read_state(RunFolder(tmp_path).path(5))["generator"]["network"])
    save_generator(generator_of(code_prompt=False), "custom", tmp_path / "custom.safetensors")
    assert "code_prompt" not in load_generator(tmp_path / "custom.safetensors").metadata["sam_config"]


def test_the_command_line_takes_it():
    assert recipe("paper", {"code_prompt": "true"}).code_prompt and not recipe("paper").code_prompt


# --- protecting with it


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_generator(with_an_effect(generator_of(code_prompt=True)), "custom", tmp_path / "coded.safetensors")
    return tmp_path / "coded.safetensors"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    random = np.random.default_rng(5)
    for name, width in (("a.png", 60), ("b.png", 70)):
        values = random.integers(20, 230, (41, width, 3)).astype(np.uint8)
        labels = np.zeros((41, width), np.uint8)
        labels[5:30, 9:33], labels[20:40, 36:] = 4, 9
        for folder, pixels in (("photos", values), ("objects", (labels > 0) * np.uint8(255)), ("labels", labels + 1)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / name)
    return tmp_path / "photos"


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_protecting_gives_the_codes_and_keeps_the_key(weights, photos, tmp_path):
    settings = ProtectSettings(noise="sam", generator=weights, workers=2, device="cpu")
    out = tmp_path / "out"
    summary = protect(photos, out, settings, masks=tmp_path / "objects")
    assert [entry.status for entry in summary.entries] == ["protected"] * 2, summary.entries
    key = read_key(tmp_path / "out.key")
    header = read_manifest(out).header
    assert header["settings"]["key"] == key_hash(key) and header["settings"]["book"] == ONE_CODE_BOOK.version
    assert header["settings"]["codes"] == {"background": 0, "object": 1}
    assert verify(out).exit_code == 0 and verify(out).note is None
    again = tmp_path / "again"
    protect(photos, again, settings, masks=tmp_path / "objects", key=key)
    other = tmp_path / "other"
    protect(photos, other, settings, masks=tmp_path / "objects", key=bytes(32))
    for name in ("a.png", "b.png"):
        assert (out / name).read_bytes() == (again / name).read_bytes()
        assert not np.array_equal(pixels(out / name), pixels(other / name))  # the network sees the codes
        change = np.abs(pixels(out / name) - pixels(photos / name)).max(axis=2)
        on_object = pixels(tmp_path / "objects" / name) > 0
        assert change[on_object].max() <= 8 and change[~on_object].max() <= 2
    single = unseg.Protector(weights, key=key, device="cpu")
    mask = pixels(tmp_path / "objects" / "a.png") > 0
    assert np.array_equal(single(pixels(photos / "a.png").astype(np.uint8), mask), pixels(out / "a.png"))
    assert single.key == key
    (tmp_path / "out.key").unlink()
    with pytest.raises(UserError, match="out.key: is not there"):
        protect(photos, out, settings, masks=tmp_path / "objects")


@pytest.mark.slow
def test_processes_give_the_same_codes(weights, photos, tmp_path):
    settings = ProtectSettings(noise="sam", generator=weights, workers=2, device="cpu")
    for name, processes in (("one", 1), ("two", 2)):
        out = tmp_path / name
        protect(photos, out, settings, masks=tmp_path / "objects", key=bytes(32), processes=processes)
    assert all(
        (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in ("a.png", "b.png")
    )


def test_classes_that_tile_the_picture_have_codes_of_their_own(weights, photos, tmp_path):
    settings = ProtectSettings(noise="sam", generator=weights, workers=2, device="cpu")
    protect(photos, tmp_path / "out", settings, masks=tmp_path / "labels")
    codes = read_manifest(tmp_path / "out").header["settings"]["codes"]
    assert sorted(codes) == ["1", "10", "5"] and sorted(codes.values()) == [0, 1, 2]
    (absent,) = (int(label) for label, code in codes.items() if code == 0)
    change = np.abs(pixels(tmp_path / "out" / "a.png") - pixels(photos / "a.png")).max(axis=2)
    labels = pixels(tmp_path / "labels" / "a.png")
    assert change[labels == absent].max() <= 2 < change[labels != absent].max() <= 8
    assert verify(tmp_path / "out").exit_code == 0
    kept = protect(photos, tmp_path / "out", settings, masks=tmp_path / "labels")
    assert kept.kept == 2 and kept.exit_code == 0


def test_a_comparison_gives_the_codes_of_protect(weights, photos):
    """As `unseg bench --generator` makes it: with the comparison's key and codes, absence where a class has none."""
    noise = load_noise(str(weights), Budget(8, 2), "cpu")
    pixels_of = pixels(photos / "a.png").astype(np.uint8)
    codes = np.full(pixels_of.shape[:2], ABSENCE, np.uint8)
    codes[4:30, 9:40], codes[30:, :20] = 3, NO_CODE
    changed = noise.with_codes(pixels_of, codes, BOOK, bytes(32))
    change = np.abs(changed.astype(int) - pixels_of).max(axis=2)
    assert change[codes == 3].max() <= 8 and change[codes != 3].max() <= 2 and change.max() > 2
    assert np.array_equal(changed, noise.with_codes(pixels_of, codes, BOOK, bytes(32)))
    assert not np.array_equal(changed, noise.with_codes(pixels_of, codes, BOOK, bytes(range(32))))
    assert not np.array_equal(changed, noise.with_codes(pixels_of, codes, ONE_CODE_BOOK, bytes(32)))
    assert load_noise("compact", Budget(8, 2), "cpu").with_codes is None


@pytest.mark.parametrize("codes", [None, {"object": 0}, {"9" * 5000: 0}])
def test_a_manifest_of_codes_that_a_stranger_wrote_is_told_in_one_line(weights, photos, tmp_path, codes):
    settings = ProtectSettings(noise="sam", generator=weights, workers=2, device="cpu")
    protect(photos, tmp_path / "out", settings, masks=tmp_path / "objects", key=bytes(32))
    path = tmp_path / "out" / MANIFEST
    first, *rest = path.read_text().splitlines(keepends=True)
    header = json.loads(first)
    header["settings"] |= {"codes": codes, "book": "gratings-0"}
    path.write_text(json.dumps(header) + "\n" + "".join(rest))
    try:
        note = verify(tmp_path / "out").note
    except UserError as error:
        assert "codes" in str(error) and "\n" not in str(error)
    else:
        assert note == f"its codes are of the book gratings-0; by default they are of {ONE_CODE_BOOK.version}"


def test_a_key_for_a_generator_that_takes_no_codes_is_refused(photos, tmp_path):
    path = tmp_path / "plain.safetensors"
    save_generator(generator_of(code_prompt=False), "custom", path)
    settings = ProtectSettings(noise="sam", generator=path, workers=2, device="cpu")
    for given, option in (({"key": bytes(32)}, "--key"), ({"codes": {1: 1}}, "--codes")):
        with pytest.raises(UserError, match=f"{option}: is for noise of codes, and generator plain.safetensors takes"):
            protect(photos, tmp_path / "out", settings, masks=tmp_path / "objects", **given)
    with pytest.raises(UserError, match="key: is for noise of codes"):
        unseg.Protector(path, key=bytes(32), device="cpu")(pixels(photos / "a.png").astype(np.uint8), whole_image=True)
