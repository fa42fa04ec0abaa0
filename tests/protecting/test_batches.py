"""How images are put together in batches: a fixed size for each device, and no more pixels than fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from unseg.protecting import network_source, pipeline


def test_a_batch_has_a_fixed_size_on_each_device() -> None:
    for device, expected in (("cpu", (1, 1, 1)), ("cuda", (32, 32, 8))):
        sizes = [network_source.default_batch_size(device, side) for side in (256, 512, 1024)]
        assert tuple(sizes) == expected


def test_large_photographs_make_small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    made = pipeline.Pipeline.__new__(pipeline.Pipeline)
    made.source = SimpleNamespace(batch_size=3)
    monkeypatch.setattr(made, "_pixels_of", lambda job: job, raising=False)
    taken: list[int] = []

    def jobs() -> Iterator[int]:
        for job in (1, 2, 3, 40_000_000, 7_000_000, 9_000_000, 50_000_000, 5):
            taken.append(job)
            yield job

    groups = made._groups(jobs())
    assert next(groups) == ([1, 2, 3], 6) and taken == [1, 2, 3]  # nothing is taken before there is room for it
    assert [group for group, _ in groups] == [[40_000_000, 7_000_000], [9_000_000], [50_000_000], [5]]
