"""Interactive segmentation: SAM's official weights in transformers' networks, prompts, what is trained, and honest
measures.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from click.testing import Result
from hypothesis import given, settings
from PIL import Image as Pillow
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from torch import nn
from typer.testing import CliRunner

from tests.support.whole_app import app
from unseg.data.annotations import Annotated, ClassMap, ClassTable, ObjectRule, Segment
from unseg.data.annotations.core import Indexed
from unseg.errors import UserError
from unseg.evaluation.learner import LearnerOptions
from unseg.evaluation.region_views import ViewOf, draw_view
from unseg.evaluation.tasks.interactive import Interactive, make_interactive, overlay
from unseg.evaluation.tasks.scenes import objects_of
from unseg.victims import promptable

SIDE = 64
MINI = promptable.SamSize(32, 2, 2, (1,), window=2, prompt_width=32, decoder_mlp=48)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def mini(monkeypatch: pytest.MonkeyPatch) -> None:
    """sam_mini and samhq_mini: SAM's architecture, small."""
    monkeypatch.setitem(promptable.SIZES, "mini", MINI)
    monkeypatch.setattr(promptable, "NETWORKS", (*promptable.NETWORKS, "sam_mini", "samhq_mini"))


@dataclass
class Pictures:
    """Images in memory. maps: class-id masks, or annotations themselves."""

    images: list[np.ndarray]
    maps: list[np.ndarray | Annotated]
    classes: ClassTable = ClassTable()
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names = self.names or [f"{place}.png" for place in range(len(self.images))]

    def pixels(self, index: int) -> np.ndarray:
        return self.images[index]

    def annotated(self, index: int) -> Annotated:
        values = self.maps[index]
        return values if isinstance(values, Annotated) else ClassMap(values, "index", self.classes)


def disc(height: int, width: int, row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def scenes(count: int = 3, side: int = SIDE) -> Pictures:
    """Discs of class 1 and squares of class 2, brighter and darker than the ground; 255 in a corner."""
    random = np.random.default_rng(0)
    images, maps = [], []
    for place in range(count):
        values = np.zeros((side, side), np.uint8)
        values[disc(side, side, 20 + 2 * place, 18, 12)] = 1
        values[36:56, 30 + place : 58] = 2
        values[:4, -4:] = 255
        grey = np.array([110, 220, 30])[np.minimum(values, 2)]
        images.append((grey[..., None] + random.integers(-12, 13, (side, side, 3))).clip(0, 255).astype(np.uint8))
        maps.append(values)
    return Pictures(images, maps)


def learner(
    train: Pictures | None = None, test: Pictures | None = None, network: str = "sam_mini", **options
) -> Interactive:
    options = LearnerOptions((SIDE, SIDE), **{"colour_jitter": False, **options})
    return Interactive(network, train or scenes(), test or scenes(2), options)


# --- weights ---------------------------------------------------------------------------------------------------------


def official_sam() -> Sam:
    """Meta's own network in the sizes of MINI, every parameter drawn at random."""
    torch.manual_seed(0)
    grid, width = SIDE // 16, MINI.prompt_width
    network = Sam(
        ImageEncoderViT(
            img_size=SIDE,
            embed_dim=MINI.width,
            depth=MINI.depth,
            num_heads=MINI.heads,
            out_chans=width,
            use_rel_pos=True,
            window_size=MINI.window,
            global_attn_indexes=MINI.global_blocks,
            norm_layer=lambda dim: nn.LayerNorm(dim, eps=1e-6),
        ),
        PromptEncoder(width, (grid, grid), (SIDE, SIDE), 16),
        MaskDecoder(
            transformer_dim=width,
            iou_head_hidden_dim=width,
            transformer=TwoWayTransformer(depth=2, embedding_dim=width, mlp_dim=MINI.decoder_mlp, num_heads=8),
        ),
    )
    return randomised(network)


def randomised(network: nn.Module) -> nn.Module:
    """Far from every initial value, so that an entry in a wrong place shows."""
    for name, value in network.state_dict().items():
        value.copy_(
            torch.randn(value.shape) * (1.0 if value.ndim < 2 or "gaussian" in name else value[0].numel() ** -0.5)
        )
    return network.eval()


def hq_parts() -> nn.Module:
    """What SAM-HQ has beside SAM, under the names of its published file."""
    width = MINI.prompt_width

    def doubling(inputs: int, middle: int) -> nn.Sequential:
        return nn.Sequential(
            nn.ConvTranspose2d(inputs, middle, 2, 2),
            LayerNorm2d(middle),
            nn.GELU(),
            nn.ConvTranspose2d(middle, width // 8, 2, 2),
        )

    parts = nn.Module()
    parts.hf_token, parts.hf_mlp = nn.Embedding(1, width), MLP(width, width, width // 8, 3)
    parts.compress_vit_feat, parts.embedding_encoder = doubling(MINI.width, width), doubling(width, width // 4)
    parts.embedding_maskfeature = nn.Sequential(
        nn.Conv2d(width // 8, width // 4, 3, 1, 1),
        LayerNorm2d(width // 4),
        nn.GELU(),
        nn.Conv2d(width // 4, width // 8, 3, 1, 1),
    )
    return randomised(parts)


def asked() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    boxes = torch.tensor([[[3.0, 5, 40, 33], [10, 12, 60, 50]]])
    return torch.randn(1, 3, SIDE, SIDE), boxes, torch.rand(1, 2, 10, 2) * SIDE


def embedded(
    network: Sam, boxes_K4: torch.Tensor | None, points_KN2: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    labels = None if points_KN2 is None else (points_KN2, torch.ones(points_KN2.shape[:2], dtype=torch.int))
    return network.prompt_encoder(labels, boxes_K4, None)


@torch.no_grad()
def meta_answers(network: Sam, image: torch.Tensor, boxes: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """1×K×2×M×M, as Meta's code computes it."""
    seen = network.image_encoder(image)
    logits = []
    for prompts in ((boxes[0], None), (None, points[0])):
        sparse, dense = embedded(network, *prompts)
        logits.append(network.mask_decoder(seen, network.prompt_encoder.get_dense_pe(), sparse, dense, False)[0][:, 0])
    return torch.stack(logits, 1)[None]


@torch.no_grad()
def hq_answers(
    network: Sam, parts: nn.Module, image: torch.Tensor, boxes: torch.Tensor, points: torch.Tensor
) -> torch.Tensor:
    """1×K×2×M×M: SAM-HQ's formula over Meta's modules. The token is the last of the output tokens, the early features
    are those after the first global block.
    """
    early: list[torch.Tensor] = []
    block = network.image_encoder.blocks[MINI.global_blocks[0]]
    hook = block.register_forward_hook(lambda module, inputs, output: early.append(output))
    seen = network.image_encoder(image)
    hook.remove()
    decoder = network.mask_decoder
    fused = parts.embedding_encoder(seen) + parts.compress_vit_feat(early[0].permute(0, 3, 1, 2))
    logits = []
    for prompts in ((boxes[0], None), (None, points[0])):
        sparse, dense = embedded(network, *prompts)
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight, parts.hf_token.weight]).expand(
            len(sparse), -1, -1
        )
        positions = network.prompt_encoder.get_dense_pe().expand(len(sparse), -1, -1, -1)
        tokens, image_tokens = decoder.transformer(seen + dense, positions, torch.cat([own, sparse], 1))
        features = decoder.output_upscaling(image_tokens.transpose(1, 2).reshape(len(sparse), -1, *seen.shape[-2:]))
        features = parts.embedding_maskfeature(features) + fused
        logits.append(torch.einsum("kc,kchw->khw", parts.hf_mlp(tokens[:, 5]), features))
    return torch.stack(logits, 1)[None]


def save(state: dict[str, torch.Tensor], path: Path) -> Path:
    torch.save(state, path)
    return path


def sam_state(network: Sam) -> dict[str, torch.Tensor]:
    return {name: value for name, value in network.state_dict().items() if name not in ("pixel_mean", "pixel_std")}


def test_meta_weights_answer_as_in_meta_code(tmp_path: Path) -> None:
    network = official_sam()
    ours = promptable.build_promptable("sam_mini", SIDE, save(sam_state(network), tmp_path / "sam.pth")).eval()
    expected = meta_answers(network, *asked())
    with torch.no_grad():
        answers = ours(*asked())
    assert answers.shape == (1, 2, 2, SIDE // 4, SIDE // 4)
    torch.testing.assert_close(answers, expected, rtol=1e-3, atol=1e-3 * expected.std().item())


def test_hq_weights_answer_as_its_formula(tmp_path: Path) -> None:
    network, parts = official_sam(), hq_parts()
    state = {**sam_state(network), **{f"mask_decoder.{name}": value for name, value in parts.state_dict().items()}}
    ours = promptable.build_promptable("samhq_mini", SIDE, save(state, tmp_path / "sam_hq.pth")).eval()
    expected = hq_answers(network, parts, *asked())
    with torch.no_grad():
        answers = ours(*asked())
    torch.testing.assert_close(answers, expected, rtol=1e-3, atol=1e-3 * expected.std().item())


def test_official_names_of_vit_b_all_find_their_place() -> None:
    """Meta's largest list of names that is at hand without its file: the network that its own package builds."""
    from segment_anything import sam_model_registry

    with torch.device("meta"):
        theirs = {name: tuple(value.shape) for name, value in sam_state(sam_model_registry["vit_b"]()).items()}
        ours = promptable.build_promptable("sam_vit_b", 1024).network.state_dict()
    renamed = dict(zip(promptable.from_official(dict.fromkeys(theirs)), theirs.values(), strict=True))
    expected = {name: tuple(value.shape) for name, value in ours.items() if name != promptable.PROMPT_FREQUENCIES}
    assert renamed == expected


@pytest.mark.parametrize("name", ["sam_mini", "samhq_mini"])
def test_folder_of_transformers_is_read_back(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    first = promptable.build_promptable(name, SIDE).eval()
    first.network.save_pretrained(tmp_path)
    torch.manual_seed(4)
    again = promptable.build_promptable(name, SIDE, tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(first(*asked()), again(*asked()))


def test_sam_weights_start_a_samhq(tmp_path: Path) -> None:
    path = save(sam_state(official_sam()), tmp_path / "sam.pth")
    hq = promptable.build_promptable("samhq_mini", SIDE, path)
    assert torch.equal(hq.network.mask_decoder.mask_tokens.weight, official_sam().mask_decoder.mask_tokens.weight)
    assert hq.network.mask_decoder.hq_token.weight.abs().sum() > 0


@pytest.mark.parametrize(
    ("change", "network", "side", "told"),
    [
        (
            lambda state: state.pop("mask_decoder.iou_token.weight"),
            "sam_mini",
            SIDE,
            "1 missing (mask_decoder.iou_token.weight)",
        ),
        (
            lambda state: state.update({"mask_decoder.hf_token.weight": torch.zeros(1, 32)}),
            "sam_mini",
            SIDE,
            "1 unexpected (mask_decoder.hq_token.weight)",
        ),
        (
            lambda state: state.update({"mask_decoder.hf_token.weight": torch.zeros(1, 32)}),
            "samhq_mini",
            SIDE,
            "missing (mask_decoder.hq_mask_mlp",
        ),
        (lambda state: None, "sam_mini", 128, "give --size 64x64"),
        (lambda state: None, "sam_tiny", 128, "does not fit sam_tiny"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    change: Callable, network: str, side: int, told: str, tmp_path: Path
) -> None:
    state = sam_state(official_sam())
    change(state)
    with pytest.raises(UserError, match="^--weights ") as error:
        promptable.build_promptable(network, side, save(state, tmp_path / "sam.pth"))
    assert told in str(error.value) and "\n" not in str(error.value)


def test_missing_weights_are_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(UserError, match=str(path)):
            promptable.build_promptable("sam_mini", SIDE, path)


# --- what is trained -------------------------------------------------------------------------------------------------


def trained(network: nn.Module) -> set[str]:
    return {name.removeprefix("network.") for name, value in network.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("name", ["sam_mini", "samhq_mini"])
def test_from_scratch_every_trained_parameter_has_a_gradient(name: str) -> None:
    network = promptable.build_promptable(name, SIDE)
    network(*asked()).square().mean().backward()
    with_gradient = {
        key.removeprefix("network.") for key, value in network.named_parameters() if value.grad is not None
    }
    assert with_gradient == trained(network)
    left = {key for key, _ in network.network.named_parameters()} - trained(network)
    idle = (
        "iou_prediction_head",
        "mask_embed.",
        "positional_embedding",
        *["output_hypernetworks_mlps"] * (name == "samhq_mini"),
    )
    assert left and all(any(part in key for part in idle) for key in left)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("sam_mini", ("mask_decoder.",)),
        (
            "samhq_mini",
            (
                "mask_decoder.hq_",
                "mask_decoder.compress_vit_",
                "mask_decoder.encoder_",
                "mask_decoder.mask_conv",
                "mask_decoder.mask_norm",
            ),
        ),
    ],
)
def test_with_weights_the_encoder_stays(name: str, parts: tuple[str, ...], tmp_path: Path) -> None:
    network = promptable.build_promptable(name, SIDE, save(sam_state(official_sam()), tmp_path / "sam.pth"))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert "sam.pth" in network.note
    optimizer = torch.optim.AdamW([value for value in network.parameters() if value.requires_grad], 1e-2)
    network(*asked()).square().mean().backward()
    optimizer.step()
    changed = {
        key.removeprefix("network.")
        for key, value in network.state_dict().items()
        if not torch.equal(value, before[key])
    }
    assert changed and all(key.startswith(parts) for key in changed)
    assert set(trained(network)) >= changed


def test_positions_from_scratch_vary_slowly() -> None:
    """Neighbouring pixels get neighbouring codes: transformers' own start has frequencies hundreds of times higher."""
    frequencies = promptable.build_promptable("sam_tiny", 128).network.state_dict()[promptable.FREQUENCIES]
    assert 0.5 < frequencies.std() < 1.5


# --- objects and prompts ---------------------------------------------------------------------------------------------


def test_objects_of_a_class_map_are_its_classes() -> None:
    values = np.array([[0, 1, 1], [2, 2, 255]])
    annotated, rule = ClassMap(values, "index", ClassTable()), ObjectRule()
    assert [mask.tolist() for mask in objects_of(annotated, rule)] == [(values == 1).tolist(), (values == 2).tolist()]
    assert [mask.tolist() for mask in objects_of(annotated, replace(rule, which=(2,)))] == [(values == 2).tolist()]
    assert len(objects_of(annotated, replace(rule, background_label=None))) == 3
    assert [mask.tolist() for mask in objects_of(annotated, rule, merged=True)] == [np.isin(values, (1, 2)).tolist()]
    assert objects_of(ClassMap(np.zeros((2, 2), int), "index", ClassTable()), rule, merged=True) == []


def test_crowds_and_void_are_never_asked_for() -> None:
    index = np.array([[0, 1], [2, 3]])
    segments = [
        Segment(5, None, None, crowd, True, void, lambda place=place: index == place)
        for place, (crowd, void) in enumerate([(False, False), (True, False), (False, True)])
    ]
    assert [mask.tolist() for mask in objects_of(Indexed(index, segments), ObjectRule())] == [(index == 0).tolist()]


def viewed(draws: list[float]) -> ViewOf:
    return partial(draw_view, draws, size=(SIDE, SIDE), colour=None)


@settings(max_examples=40, deadline=None)
@given(st.integers(20, 90), st.integers(20, 90), st.integers(0, 2**31), st.integers(0, 10**6))
def test_prompts_of_training_views_lie_on_the_object(height: int, width: int, seed: int, drawn: int) -> None:
    mask = disc(height, width, height / 2, width / 2, 9)
    own = learner(Pictures([np.zeros((height, width, 3), np.uint8)], [mask.astype(np.uint8)]))
    random = np.random.default_rng(drawn)
    view = own._training_view((0, viewed(random.random(4).tolist()), (seed, 0)))
    assert view.labels.shape == (4, SIDE, SIDE)
    for label, box, points in zip(view.labels, view.boxes, view.points, strict=True):
        on = label > 128 / 255
        rows, columns = torch.nonzero(on).unbind(1)
        assert box.tolist() == [columns.min(), rows.min(), columns.max(), rows.max()]
        assert points.shape == (10, 2) and all(on[int(y), int(x)] for x, y in points)
        assert on.sum() >= 32


def test_a_training_view_asks_for_different_objects() -> None:
    own = learner(scenes(1))
    view = own._training_view((0, viewed([0.9, 0.43, 0, 0]), (3, 0)))  # the whole image, as it is
    assert len(own.train[0].masks) == 2
    assert torch.equal(view.labels[0], view.labels[2]) and not torch.equal(view.labels[0], view.labels[1])
    assert not torch.equal(view.points[0], view.points[2])
    merged = learner(scenes(1), extra={"target": "merged"})._training_view((0, viewed([0.9, 0.43, 0, 0]), (3, 0)))
    assert torch.equal(merged.labels[0], view.labels[0].maximum(view.labels[1])) and len(merged.labels) == 1


def test_test_prompts_depend_on_the_name_alone() -> None:
    seen: list[torch.Tensor] = []

    class Listening(Answering):
        def forward(self, images, boxes, points):
            seen.append(points)
            return super().forward(images, boxes, points)

    one = scenes(1)
    for pictures in (one, one, Pictures(one.images, one.maps, names=["other.png"])):
        learner(test=pictures).evaluate(Listening(lambda mask: mask, pictures), CPU)
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])


# --- measures --------------------------------------------------------------------------------------------------------


class Answering(nn.Module):
    """Stands in for a network: answers with what `change` makes of the true masks, at the frame's own resolution."""

    def __init__(
        self, change: Callable[[np.ndarray], np.ndarray], test: Pictures, of_points: Callable | None = None
    ) -> None:
        super().__init__()
        self.changes, self.images = (change, of_points or change), iter(range(len(test.images)))
        self.truth = [objects_of(test.annotated(index), ObjectRule()) for index in range(len(test.images))]

    def forward(self, images: torch.Tensor, boxes: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        masks = self.truth[next(self.images)]
        assert boxes.shape == (1, len(masks), 4) and points.shape == (1, len(masks), 10, 2)
        logits = torch.zeros(1, len(masks), 2, *images.shape[-2:])
        for place, mask in enumerate(masks):
            for kind, change in enumerate(self.changes):
                answer = torch.from_numpy(change(mask)).float() * 2 - 1
                logits[0, place, kind, : mask.shape[0], : mask.shape[1]] = answer
        return logits


def test_a_perfect_network_scores_1_and_a_useless_one_0() -> None:
    test = scenes(2)
    perfect = learner(test=test).evaluate(Answering(lambda mask: mask, test), CPU)
    assert all(perfect[name] == 1.0 for name in perfect if name != "counts")
    assert perfect["counts"] == {"objects": 4, "too_small": 0, "images_without_object": 0}
    useless = learner(test=test).evaluate(Answering(np.zeros_like, test), CPU)
    assert all(useless[name] == 0.0 for name in useless if name != "counts")


def test_boxes_and_points_are_told_apart() -> None:
    test = scenes(2)
    answers = learner(test=test).evaluate(Answering(lambda mask: mask, test, of_points=np.zeros_like), CPU)
    assert (answers["iou_box"], answers["iou_points"], answers["iou"]) == (1.0, 0.0, 0.5)
    assert (answers["boundary_iou_box"], answers["boundary_iou_points"], answers["boundary_iou"]) == (1.0, 0.0, 0.5)


def test_measures_by_hand() -> None:
    """A square of 20×20 against its left half, in an image of 64×32: IoU 1/2. The band is round(0.02 × √(64² + 32²)) =
    1 pixel wide: the square's outline has 4 × 19 = 76 pixels, the half's 2 × (20 + 10) − 4 = 56; they share 20 + 2 × 9
    = 38: 38 / 94.
    """
    values = np.zeros((64, 32), np.uint8)
    values[10:30, 4:24] = 1
    test = Pictures([np.zeros((64, 32, 3), np.uint8)], [values])
    half = (values == 1) & (np.arange(32) < 14)
    scores = learner(test=test).evaluate(Answering(lambda mask: half, test), CPU)
    assert scores["iou_box"] == 0.5
    assert scores["boundary_iou_points"] == pytest.approx(38 / 94)


def test_trivial_answers_by_hand() -> None:
    """A disc is the share π/4 of its box, nearly; an L of three quarters exactly. Points alone: the whole image."""
    values = np.zeros((64, 64), np.uint8)
    values[8:28, 8:28] = 1
    values[8:18, 18:28] = 0
    trivial = learner(test=Pictures([np.zeros((64, 64, 3), np.uint8)], [values])).trivial
    assert trivial["iou_box"] == 0.75
    assert trivial["iou_points"] == 300 / 4096
    assert trivial["iou"] == pytest.approx((0.75 + 300 / 4096) / 2)


def test_what_is_left_out_is_counted() -> None:
    tiny = np.zeros((64, 64), np.uint8)
    tiny[3:6, 3:6] = 1
    test = Pictures([np.zeros((64, 64, 3), np.uint8)] * 3, [scenes(1).maps[0], tiny, np.zeros((64, 64), np.uint8)])
    assert learner(test=test).trivial["counts"] == {"objects": 2, "too_small": 1, "images_without_object": 2}


def test_at_most_max_objects_are_asked_for() -> None:
    own = learner(test=scenes(3), extra={"max_objects": 1})
    assert own.trivial["counts"]["objects"] == 3
    assert own.trivial == learner(test=scenes(3), extra={"max_objects": 1}).trivial


def test_merged_objects_are_one() -> None:
    own = learner(test=scenes(2), extra={"target": "merged"})
    assert own.trivial["counts"]["objects"] == 2
    assert np.array_equal(next(own._asked())[2][0], np.isin(scenes(1).maps[0], (1, 2)))


# --- training --------------------------------------------------------------------------------------------------------


def test_draws_do_not_depend_on_pixels() -> None:
    bright = scenes()
    dark = Pictures([image // 3 for image in bright.images], bright.maps)
    states, losses = [], []
    for train in (bright, dark):
        own, draw = learner(train, colour_jitter=True), torch.Generator().manual_seed(5)
        torch.manual_seed(0)
        losses.append(own.loss(own.build(), [0, 1, 2], draw, CPU).item())
        states.append(draw.get_state())
    assert torch.equal(*states) and losses[0] != losses[1]


def test_two_processes_share_the_views_of_one() -> None:
    own = learner(scenes(4), colour_jitter=True)
    torch.manual_seed(0)
    network = own.build()
    draws = [torch.Generator().manual_seed(6) for _ in range(3)]
    whole = own.loss(network, [0, 1, 2, 3], draws[0], CPU)
    parts = [own.part_loss(network, [0, 1, 2, 3], draws[1 + rank], CPU, rank, 2) for rank in range(2)]
    assert whole.item() == pytest.approx(sum(part.item() for part in parts) / 2, rel=1e-5)
    assert torch.equal(draws[0].get_state(), draws[1].get_state()) and torch.equal(
        draws[1].get_state(), draws[2].get_state()
    )


def test_large_masks_are_compared_at_sampled_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unseg.method.losses.POINTS", 100)
    own = learner()
    torch.manual_seed(0)
    network = own.build()
    values = [own.loss(network, [0, 1], torch.Generator().manual_seed(seed), CPU).item() for seed in (1, 1, 2)]
    assert values[0] == values[1] != values[2]


def test_an_image_without_object_is_replaced() -> None:
    train = scenes(2)
    train.maps[0] = np.zeros((64, 64), np.uint8)
    own = learner(train)
    assert own.notes == []
    assert own.train.with_object(0) is own.train[1]
    assert len(own.notes) == 1 and own.notes[0].endswith("others were taken in their place: 1 (0.png)")


def test_sets_without_an_object_are_told_before_anything_is_trained() -> None:
    full, empty = scenes(2), Pictures(scenes(1).images, [np.zeros((64, 64), np.uint8)])
    options = LearnerOptions((SIDE, SIDE))
    for train, test, told in (
        (empty, full, "--annotations: no training image has an object of"),
        (full, empty, "--test-annotations: no test image has an object of"),
    ):
        with pytest.raises(UserError, match=told):
            make_interactive("sam_mini", train, test, options)
    assert make_interactive("sam_mini", full, full, options).notes == []


@pytest.mark.slow
@pytest.mark.parametrize("network", ["sam_mini", "samhq_mini"])
def test_it_learns(network: str) -> None:
    """100 steps from scratch on two images: points alone find the objects far better than the answer that looks at
    nothing.
    """
    pictures = scenes(2)
    own = learner(pictures, pictures, network)
    torch.manual_seed(0)
    model, draw = own.build(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], 3e-3)
    losses = []
    for _ in range(100):
        loss = own.loss(model, [0, 1, 0, 1], draw, CPU)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.1
    assert own.evaluate(model, CPU)["iou_points"] > own.trivial["iou_points"] + 0.2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("network", ["sam_mini", "samhq_mini"])
def test_gpus_in_half_precision_answer_like_the_cpu(network: str) -> None:
    model, (images, boxes, points), cuda = (
        promptable.build_promptable(network, SIDE).eval(),
        asked(),
        torch.device("cuda"),
    )
    with torch.no_grad():
        expected = model(images, boxes, points)
        with torch.autocast("cuda", torch.bfloat16):
            answers = model.to(cuda)(images.to(cuda), boxes.to(cuda), points.to(cuda))
    assert answers.dtype == torch.float32
    torch.testing.assert_close(answers.cpu(), expected, rtol=0.05, atol=0.05 * expected.std().item())


def test_examples_show_truth_and_answers() -> None:
    test = scenes(2)
    (shown,) = learner(test=test).examples(Answering(lambda mask: mask, test), CPU, 1)
    assert (
        shown.name == "0.png"
        and np.array_equal(shown.image, test.images[0])
        and np.array_equal(shown.truth, shown.prediction)
    )
    (empty,) = learner(test=test).examples(Answering(np.zeros_like, test), CPU, 1)
    assert np.array_equal(empty.prediction, overlay(test.images[0], []))


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"extra": {"target": "all"}}, "--set target=all: give segments or merged"),
        ({"extra": {"max_objects": 0}}, "--set max_objects=0"),
        ({"extra": {"colour": 1}}, "--set colour: no such option"),
        ({"size": (60, 60)}, "--size 60x60: the longer side must be a multiple of 16"),
    ],
)
def test_options_are_checked(change: dict, told: str) -> None:
    with pytest.raises(UserError) as error:
        Interactive("sam_mini", scenes(), scenes(), LearnerOptions(**{"size": (SIDE, SIDE), **change}))
    assert told in str(error.value)


def test_unknown_network_lists_the_known() -> None:
    with pytest.raises(UserError, match="unknown network 'sam_vit_x'.*sam_vit_b.*samhq_tiny"):
        Interactive("sam_vit_x", scenes(), scenes(), LearnerOptions((SIDE, SIDE)))


# --- through the command ---------------------------------------------------------------------------------------------


def write_scenes(root: Path, count: int, first: int = 0) -> Path:
    """images/ as JPEG and masks/ as PNG of segment ids, a folder each as HQSeg-44K and BSDS500 are kept."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    pictures = scenes(first + count)
    for place in range(first, first + count):
        Pillow.fromarray(pictures.images[place]).save(root / "images" / f"{place}.jpg")
        Pillow.fromarray(pictures.maps[place]).save(root / "masks" / f"{place}.png")
    return root


def evaluate(tmp_path: Path, *options: str) -> tuple[Result, Path]:
    folders = [tmp_path / "train", tmp_path / "test"]
    if not folders[0].exists():
        write_scenes(folders[0], 3)
        write_scenes(folders[1], 2, 3)
    out = tmp_path / "out"
    return CliRunner().invoke(
        app,
        [
            "evaluate",
            "--task",
            "interactive",
            "--clean",
            str(folders[0]),
            "--test",
            str(folders[1]),
            "--annotations-format",
            "index",
            "--size",
            f"{SIDE}x{SIDE}",
            "--steps",
            "3",
            "--batch",
            "2",
            "--eval-every",
            "3",
            "--conditions",
            "clean,random",
            "--device",
            "cpu",
            "--out",
            str(out),
            *options,
        ],
    ), out


@pytest.mark.slow
def test_networks_of_both_families_run_end_to_end(tmp_path: Path) -> None:
    ran, out = evaluate(tmp_path, "--networks", "sam_mini,samhq_tiny")
    assert ran.exit_code == 0, ran.output
    results = json.loads((out / "results.json").read_text())
    runs = results["runs"]
    assert {(run["settings"]["network"], run["settings"]["condition"]) for run in runs} == {
        (network, condition) for network in ("sam_mini", "samhq_tiny") for condition in ("clean", "random")
    }
    assert results["tasks"]["interactive"]["trivial"]["iou_box"] > 0.7
    for run in runs:
        metrics = run["result"]["metrics"]
        assert run["result"]["final"] == metrics["iou"] and metrics["counts"]["objects"] == 4
        assert run["result"]["notes"] == [
            "no --weights, so the image encoder and the decoder are trained from random weights"
        ]
        assert all(
            (out / example[kind]).is_file()
            for example in run["result"]["examples"]
            for kind in ("image", "truth", "prediction")
        )


@pytest.mark.slow
def test_weights_and_merged_objects_through_the_command(tmp_path: Path) -> None:
    weights = save(sam_state(official_sam()), tmp_path / "sam_mini.pth")
    ran, out = evaluate(tmp_path, "--networks", "samhq_mini", "--weights", str(weights), "--set", "target=merged")
    assert ran.exit_code == 0, ran.output
    result = json.loads((out / "results.json").read_text())["runs"][0]["result"]
    assert result["notes"] == ["SAM's parts stay as in sam_mini.pth, SAM-HQ's own are trained from random weights"]
    assert result["metrics"]["counts"]["objects"] == 2


def test_errors_through_the_command_are_one_line(tmp_path: Path) -> None:
    for options, told in (
        (("--networks", "sam_vit_x"), "sam_vit_b"),
        (("--networks", "sam_mini", "--weights", "none.pth"), "none.pth"),
        (("--networks", "sam_mini", "--set", "per_view=0"), "--set per_view=0"),
    ):
        ran, _ = evaluate(tmp_path, *options)
        assert isinstance(ran.exception, UserError), ran.output
        assert told in str(ran.exception) and "\n" not in str(ran.exception)
