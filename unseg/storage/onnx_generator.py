"""The compact generator for onnxruntime: the shipped ONNX file, made of the safetensors beside it.

`python -m benchmarks.export_onnx` makes the file. It holds the network with its drawing of prompts, the facts of its
training, and the sha256 of the safetensors, so that manifests say the same whatever computed the noise.
"""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from unseg.errors import UserError, naming_the_extra
from unseg.storage.loaded_generator import LoadedGenerator

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    import onnxruntime

ONNX_FILE, SAFETENSORS_FILE = "compact.onnx", "compact.safetensors"
FACTS = "unseg"  # the entry of the ONNX file's metadata: JSON of `OnnxGenerator`'s attributes and of LoadedGenerator's
INPUTS = ("images", "masks", "boxes", "given")
OUTPUT = "noise"


class OnnxGenerator:
    """Makes noise as `segment_anything_training.compact.CompactGenerator` does, on the processor.

    image_size, mask_size: sides of the square that it takes and of its mask prompts. codes: how many tints there are.
    Every call computes on the thread that makes it, and several threads may call at the same time.
    """

    antialias = True

    def __init__(self, session: onnxruntime.InferenceSession, facts: dict[str, Any]) -> None:
        self._session = session
        self.image_size, self.mask_size = int(facts["image_size"]), int(facts["mask_size"])
        self.parameters = int(facts["parameters"])
        self._tints_K3 = np.array(facts["code_tints"], np.float32)
        self.codes = len(self._tints_K3)

    def code_noise(self) -> np.ndarray:
        """Returns the noise of each code, the same at all of its pixels: K×3 float32 in [−1, 1]."""
        return self._tints_K3

    def __call__(
        self, images_B3SS: np.ndarray, masks_B1MM: np.ndarray | None, boxes_B4: np.ndarray | None
    ) -> np.ndarray:
        """Returns noise B×3×S×S in [−1, 1]; all arrays are float32, images in [0, 1], masks 0 or 255.

        boxes: XYXY in pixels of the frame, corners inclusive. A prompt that is None is not given.
        """
        batch = len(images_B3SS)
        given = np.zeros((batch, 3), bool)
        given[:, 0], given[:, 1] = masks_B1MM is not None, boxes_B4 is not None
        if masks_B1MM is None:
            masks_B1MM = np.zeros((batch, 1, self.mask_size, self.mask_size), np.float32)
        if boxes_B4 is None:
            boxes_B4 = np.zeros((batch, 4), np.float32)
        values = (images_B3SS, masks_B1MM, boxes_B4, given)
        noise_B3SS: np.ndarray = self._session.run([OUTPUT], dict(zip(INPUTS, values, strict=True)))[0]
        return noise_B3SS


def load_onnx() -> LoadedGenerator:
    """Returns the shipped generator for onnxruntime; its facts are those of the safetensors that it was made of."""
    with naming_the_extra("--noise compact"):
        import onnxruntime

    folder = resources.files("unseg") / "weights"
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    # One thread an image: the noise then does not depend on the number of cores.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors alone
    session = onnxruntime.InferenceSession(_shipped(folder / ONNX_FILE), options, providers=["CPUExecutionProvider"])
    facts = json.loads(session.get_modelmeta().custom_metadata_map[FACTS])
    sha256 = hashlib.sha256(_shipped(folder / SAFETENSORS_FILE)).hexdigest()
    if sha256 != facts["sha256"]:
        raise UserError(f"{folder}: {ONNX_FILE} was not made of {SAFETENSORS_FILE}; install UnSeg again")
    return LoadedGenerator(OnnxGenerator(session, facts), facts["name"], SAFETENSORS_FILE, sha256, facts["metadata"])


def _shipped(file: Traversable) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{file}: is missing from this installation; install UnSeg again") from None
