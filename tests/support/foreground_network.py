"""A network in the format of rembg's, made here: it is sure of what is red."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDES = {"isnet-general-use": 1024}  # of the others: 320
STEEPNESS = 24.0  # of the answer around its middle: red − blue of half the range


def write_red_network(home: Path, name: str = "u2netp") -> Path:
    """Writes the network that rembg finds as `name` under U2NET_HOME: 1×3×S×S float → 1×1×S×S in 0 to 1.

    rembg hands over colours as (value / greatest − mean) / deviation, with the mean and deviation of the network.
    """
    side = SIDES.get(name, 320)
    mean, deviation = ((0.5, 0.5), (1.0, 1.0)) if name in SIDES else ((0.485, 0.406), (0.229, 0.225))
    weights = STEEPNESS * np.array([deviation[0], 0, -deviation[1]], np.float32)
    bias = STEEPNESS * np.array([mean[0] - mean[1] - 0.5], np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input.1", "weights", "bias"], ["redness"]),
            helper.make_node("Sigmoid", ["redness"], ["1959"]),
        ],
        "red",
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info("1959", TensorProto.FLOAT, [1, 1, side, side])],
        [numpy_helper.from_array(weights.reshape(1, 3, 1, 1), "weights"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = home / f"{name}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path
