"""The compact generator's codes, and prompts that only some images of a batch have."""

from __future__ import annotations

import torch

from segment_anything_training.compact import NO_TINT_PLACE, CompactGenerator, prompt_planes
from segment_anything_training.prompt_batch import Prompts


def test_codes_are_far_apart_in_colour_and_one_of_them_leaves_the_image_as_it_is() -> None:
    network = CompactGenerator()
    tints = network.code_noise()
    assert tints.shape == (network.codes, 3) and network.codes == 12 and tints.abs().max() <= 1
    assert not tints[NO_TINT_PLACE].any()
    colour = tints - tints.mean(1, keepdim=True)  # what is left of a tint where brightness is of no account
    distance = torch.cdist(colour, colour) + 10 * torch.eye(len(tints))
    assert distance.min() > 0.5


def test_codes_belong_to_the_weights_and_are_not_trained() -> None:
    network = CompactGenerator()
    assert "code_tints" in network.state_dict() and "code_tints" not in dict(network.named_parameters())


def test_a_prompt_that_an_image_lacks_leaves_no_trace() -> None:
    mask, box = torch.zeros(1, 1, 32, 32), torch.tensor([[2.0, 3.0, 20.0, 21.0]])
    mask[..., 4:9, 5:20] = 255
    alone = [Prompts(masks=mask), Prompts(boxes=box), Prompts()]
    both = Prompts.join(alone)
    expected = torch.cat([prompt_planes(one, 1, 32) for one in alone])
    assert torch.equal(prompt_planes(both, 3, 32), expected)
