"""The encoder's blocks in place, as a processor runs them without gradients, against the blocks that training uses."""

from __future__ import annotations

import pytest
import torch

from segment_anything_training import cpu_blocks
from segment_anything_training.image_encoder import ImageEncoder
from segment_anything_training.sam import SamConfig


def encoder(image_size: int = 128, window: int = 3, seed: int = 0) -> ImageEncoder:
    torch.manual_seed(seed)
    made = ImageEncoder(SamConfig(image_size, embed_dim=32, depth=3, num_heads=4, global_blocks=(1,), window=window))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return made


# A grid of 8×8: windows that fill it, that leave 2 or 1 rows over, and one that is larger; whole heads, some rows, one
# row a tile.
@pytest.mark.parametrize("window", [4, 3, 7, 9])
@pytest.mark.parametrize("tile_elements", [1 << 20, 700, 1])
def test_blocks_in_place_equal_those_of_training(
    monkeypatch: pytest.MonkeyPatch, window: int, tile_elements: int
) -> None:
    monkeypatch.setattr(cpu_blocks, "TILE_ELEMENTS", tile_elements)
    network, images = encoder(window=window), torch.randn(2, 3, 128, 128)
    kept = images.clone()
    expected = network(images)
    with torch.no_grad():
        assert cpu_blocks.suits(torch.zeros(1))
        found = network(images)
        again = network(images)
    for ours, reference, second in zip(found, expected, again, strict=True):
        torch.testing.assert_close(ours, reference, rtol=0, atol=2e-6 * float(reference.detach().abs().max()))
        assert torch.equal(ours, second)
    assert torch.equal(images, kept)


def test_no_other_way_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients, another precision, another device and another kind of attention keep the blocks as they are."""
    x = torch.zeros(1)
    assert not cpu_blocks.suits(x)
    with torch.no_grad():
        assert cpu_blocks.suits(x) and not cpu_blocks.suits(x.double()) and not cpu_blocks.suits(x.to("meta"))
        with torch.autocast("cpu", torch.bfloat16):
            assert not cpu_blocks.suits(x)
    network = encoder(window=4)
    monkeypatch.setattr(cpu_blocks, "run_blocks", None)
    network.blocks[2].attn = type("Plain", (type(network.blocks[2].attn),), {})(32, 4, 4)
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 128, 128))[0].shape == (1, 256, 8, 8)


def test_relative_terms_by_hand() -> None:
    """Two by two places, one head of width 1, queries of 1: the table, read by the key's place less the query's."""
    heights, widths = torch.tensor([[30.0], [20.0], [10.0]]), torch.tensor([[3.0], [2.0], [1.0]])
    tables = cpu_blocks.difference_tables(heights, widths)
    by_row, by_column = cpu_blocks.term_views((torch.ones(4, 1) @ tables)[None], 2, 2)
    # SAM's entry for query i and key k is the table's row i − k + 1.
    assert by_row[0, :, 0].tolist() == by_row[0, :, 1].tolist() == [[20, 30], [10, 20]]
    assert by_column[0, 0].tolist() == by_column[0, 1].tolist() == [[2, 3], [1, 2]]
    logits = torch.empty(1, 4, 4)
    cpu_blocks.add_terms(by_row, by_column, logits)
    assert logits[0].tolist() == [[22, 23, 32, 33], [21, 22, 31, 32], [12, 13, 22, 23], [11, 12, 21, 22]]


def test_wide_results_take_turns_in_one_place() -> None:
    room = cpu_blocks.Room()
    first = room(4, 8).data_ptr()
    assert room(2, 3).data_ptr() == first and room(8, 4).data_ptr() == first
    assert room(100).shape == (100,)
