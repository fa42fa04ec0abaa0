"""The compact generator's codes, and prompts that only some images of a batch have."""

from __future__ import annotations

import torch

from segment_anything_training.compact import NO_TINT_PLACE, CompactGenerator, prompt_planes
from segment_anything_training.prompt_batch import Prompts
from unseg.storage.weights import load_generator


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


def test_the_shipped_generator_makes_the_noise_that_it_was_released_with() -> None:
    """Means of green over 32×32 pixels, written down from release 0.1.

    Points leave it most in doubt, so they show most.
    """
    row, column = torch.arange(256.0)[:, None], torch.arange(256.0)[None, :]
    image = torch.stack(
        [0.5 + 0.25 * torch.sin(row * (c + 1) / 37) + 0.25 * torch.cos(column * (c + 2) / 53) for c in range(3)]
    )
    image[:, 170:] = 0  # as padding below a wide image
    points = Prompts(points=torch.tensor([[[60.0, 50.0], [150.0, 100.0]]]))
    with torch.no_grad():
        noise = load_generator("compact").network(image[None], points)
    found = torch.nn.functional.avg_pool2d(noise, 32)[0, 1]
    expected = torch.ones(8, 8)
    expected[1] = expected[3] = torch.tensor([1.0, 1.0, 1.0, 0.98, 1.0, 1.0, 0.97, 1.0])
    expected[4] = torch.tensor([0.99, 0.95, 0.99, -0.25, 0.71, 1.0, -0.29, 0.66])
    expected[5] = torch.tensor([1.0, 0.98, 0.98, 0.62, 0.91, 1.0, 0.67, 0.88])
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)
