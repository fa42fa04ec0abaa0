"""Coverage-guided fuzzing of the image reader and of what is written again, with atheris (libFuzzer).

    pip install atheris
    python tests/support/fuzz_images.py seeds CORPUS    a start: whole JPEG, PNG, WebP, TIFF and BMP files of many kinds
    python tests/support/fuzz_images.py CORPUS -max_total_time=300 -timeout=5 -rss_limit_mb=1024 -max_len=30000

An input is a file. It must decode, or be refused with an ImageError of one line, as image and as mask; what decodes is
written in every lossless format with all its metadata, and read back with the same values and transparency. Keep what
it finds as a test in test_hostile.py.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

try:
    import atheris
except ImportError:  # for the seeds and `use` it is not needed
    atheris = None

with nullcontext() if atheris is None else atheris.instrument_imports(include=["unseg.storage", "PIL"]):
    from unseg.protecting.comparison import _same_transparency
    from unseg.storage import image_decoding, image_encoding, image_limits, label_decoding

MAX_PIXELS = 4_000_000  # larger ones cost time and teach nothing new


def seeds(corpus: Path) -> None:
    from tests.support.make_corpus import seeds as whole_files

    corpus.mkdir(parents=True, exist_ok=True)
    for form, files in whole_files().items():
        for number, content in enumerate(files):
            (corpus / f"{form}-{number}").write_bytes(content)


def use(data: bytes) -> int:
    """Does what protect does with a file's bytes, but for the noise; returns in how many formats it was written."""
    written, path = 0, Path("x")
    for decode in (
        lambda: label_decoding.decode_label(path, data, MAX_PIXELS),
        lambda: image_decoding.frame_of(path, MAX_PIXELS, data),
    ):
        try:
            decode()
        except image_limits.ImageError as error:
            check_message(error)
    try:
        image = image_decoding.decode_image(path, data, MAX_PIXELS, describe=True)
    except image_limits.ImageError as error:
        check_message(error)
        return 0
    for form in ("png", "tiff", "webp"):
        if image_encoding.unsupported(form, image.samples, image.alpha):
            continue
        again = image_decoding.decode_image(
            path, image_encoding.encode(form, image.samples, image.alpha, image.metadata), MAX_PIXELS
        )
        samples = (
            again.samples if again.samples.shape == image.samples.shape else again.samples[..., :1]
        )  # WebP has no grey
        assert samples.dtype == image.samples.dtype and np.array_equal(samples, image.samples), form
        assert _same_transparency(again.alpha, image.alpha), form
        written += 1
    return written


def check_message(error: Exception) -> None:
    assert "\n" not in str(error) and len(str(error)) < 400, str(error)


def main() -> None:
    def one_input(data: bytes) -> None:
        with image_limits.own_size_limit(), image_limits.quiet_decoders():
            use(data)

    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1:2] == ["seeds"]:
        seeds(Path(sys.argv[2]))
    else:
        main()
