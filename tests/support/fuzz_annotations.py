"""Coverage-guided fuzzing of the annotation readers with atheris (libFuzzer). Not part of the tests.

    pip install atheris
    python tests/support/fuzz_annotations.py seeds CORPUS    a start: the files of every format's small valid set
    python tests/support/fuzz_annotations.py CORPUS -max_total_time=600 -timeout=20 -rss_limit_mb=1024 -max_len=20000

An input is one byte that chooses a reader, then the file that it reads. Whatever is not a UserError is a finding; so
are 20 seconds and 1 GB. Keep what it finds as a test in test_annotations_hostile.py.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
# The file that an input becomes, in the order of the choosing byte. Where it stands decides which reader gets it.
TARGETS = (
    "x.json",
    "pan.json",
    "labelme/x.json",
    "yolo/x.txt",
    "yolo/data.yaml",
    "images/metadata.jsonl",
    "images/metadata.csv",
    "masks/x.png",
    "pan/x.png",
    "table.parquet",
    "table.arrow",
    "counts",
)
SIZE = 8, 12  # of the one image, rows and columns


def seeds(corpus: Path) -> None:
    """One input for each file of the small valid sets, all of whose images are called x and small here."""
    from tests.support.annotation_sets import BUILDERS, build

    corpus.mkdir(parents=True, exist_ok=True)
    by_suffix = {".jsonl": 5, ".csv": 6, ".txt": 3, ".yaml": 4, ".parquet": 9, ".arrow": 10}
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(BUILDERS):
            built = build(name, Path(folder) / str(number))
            for place, file in enumerate(path for path in sorted(built.path.parent.rglob("*")) if path.is_file()):
                if file.suffix in by_suffix:
                    chosen = [by_suffix[file.suffix]]
                elif file.suffix == ".json":
                    chosen = [1 if "panoptic" in name else 2 if "labelme" in name else 0]
                else:
                    chosen = [7, 8]
                data = file.read_bytes().replace(b"a.png", b"x.png")
                for target in chosen:
                    if len(data) < 20_000:
                        (corpus / f"{number}-{place}-{target}").write_bytes(bytes([target]) + data)
    for text in (b"431N2", b"43i2", b"ooooooo3"):
        (corpus / f"counts-{text.decode()}").write_bytes(bytes([11]) + text)
    shape = b"[[0,0,5,0,5,5,0,5]]"
    (corpus / "coco-x").write_bytes(
        b'\0{"images":[{"id":1,"file_name":"x.png","height":8,"width":12}],"annotations":[{"id":1,"image_id":1,'
        b'"category_id":1,"segmentation":' + shape + b'},{"id":2,"image_id":1,"category_id":1,"iscrowd":1,'
        b'"segmentation":{"size":[8,12],"counts":[4,3,89]}},{"id":3,"image_id":1,"category_id":1,"segmentation":'
        b'{"size":[8,12],"counts":"43i2"}}],"categories":[{"id":1,"name":"a"}]}'
    )
    (corpus / "panoptic-x").write_bytes(
        b'\1{"images":[{"id":1,"file_name":"x.png","height":8,"width":12}],"annotations":[{"image_id":1,"file_name":'
        b'"x.png","segments_info":[{"id":7,"category_id":1,"iscrowd":0}]}],"categories":[{"id":1,"name":"a",'
        b'"isthing":1}]}'
    )
    (corpus / "labelme-x").write_bytes(
        b'\2{"shapes":[{"label":"a","points":[[1,1],[5,5]],"shape_type":"circle"},{"label":"b","points":[[1,1],[5,5],'
        b'[1,5]]}],"imagePath":"x.png","imageData":"QUJD","imageHeight":8,"imageWidth":12}'
    )


def prepare(folder: Path) -> None:
    """A valid surrounding for every target."""
    import numpy as np
    from PIL import Image as Pillow

    for name in ("images", "images/masks", "labelme", "yolo", "masks", "pan"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in ("images/x.png", "images/masks/x.png", "masks/x.png", "pan/x.png"):
        Pillow.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(folder / name)
    (folder / "pan.json").write_text(
        '{"images":[{"id":1,"file_name":"x.png","height":8,"width":12}],"annotations":['
        '{"image_id":1,"file_name":"x.png","segments_info":[]}],"categories":[]}'
    )
    (folder / "yolo" / "x.txt").write_text("0 0 0 1 0 1 1\n")


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["unseg", "json", "csv", "yaml"]):
        from tests.support.annotation_check import use
        from unseg.data.annotations.runs import OutlineError, parse_counts, runs_of_counts

    valid = Path(tempfile.mkdtemp(prefix="fuzz-valid-"))
    prepare(valid)
    place = {"labelme": "labelme", "yolo": "yolo", "images": "images", "masks": "masks", "pan": "pan.json"}

    def one_input(data: bytes) -> None:
        if not data:
            return
        target, content = TARGETS[data[0] % len(TARGETS)], data[1:]
        if target == "counts":
            with suppress(OutlineError):
                assert runs_of_counts(parse_counts(content), *SIZE).mask(*SIZE).shape == SIZE
            return
        file = valid / target
        before = file.read_bytes() if file.exists() else None
        file.write_bytes(content)
        try:
            use(valid / place.get(target.partition("/")[0], target), valid / "images", {"x.png": SIZE})
        finally:
            file.unlink() if before is None else file.write_bytes(before)

    atheris.Setup(sys.argv, one_input)
    try:
        atheris.Fuzz()
    finally:
        shutil.rmtree(valid, ignore_errors=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["seeds"]:
        seeds(Path(sys.argv[2]))
    else:
        main()
