"""Compare a scikit-learn model with its ONNX export: no torch in either, two dumps instead.

    pip install skl2onnx
    python examples/sklearn_dump.py

A logistic regression learns the irises. What scikit-learn computes is written as a dump with numpy;
``alignkit capture`` dumps the run of the export in ONNX Runtime, whose last node, a ZipMap, turns the
probabilities into a sequence of maps from class to probability; ``alignkit diff`` compares the two.
Then one coefficient in the file is changed, and the same comparison names the node.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from safetensors.numpy import save_file
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from alignkit.cli import main as alignkit


def write_dump(path: Path, inputs: dict[str, np.ndarray], taps: dict[str, np.ndarray]) -> None:
    """Any program can write a dump: tensors, and a text that lists them in the order of the run."""
    about = {
        "schema": "alignkit.dump/1",
        "tier": "full",
        "producer": "scikit-learn",
        "taps": [{"name": name} for name in taps],
        "inputs": [{"name": name} for name in inputs],
    }
    tensors = {f"input/{name}": value for name, value in inputs.items()}
    tensors.update({f"tap/{name}": np.ascontiguousarray(value) for name, value in taps.items()})
    save_file(tensors, path, metadata={"alignkit.dump": json.dumps(about)})


def sklearn_taps(model: LogisticRegression, x: np.ndarray) -> dict[str, np.ndarray]:
    """What scikit-learn computes, under the names that the values have in the ONNX file."""
    probabilities = model.predict_proba(x)
    by_class = {f"output_probability[{c}]": probabilities[:, c] for c in model.classes_}
    return {"probabilities": probabilities, "output_label": model.predict(x), **by_class}


def spoil_coefficient(source: Path, target: Path) -> None:
    """Write ``source`` to ``target`` with another first coefficient in its LinearClassifier."""
    file = onnx.load(source)
    node = next(node for node in file.graph.node if node.op_type == "LinearClassifier")
    coefficients = next(attribute for attribute in node.attribute if attribute.name == "coefficients")
    coefficients.floats[0] += 0.01
    onnx.save(file, target)


def main() -> int:
    data, target = load_iris(return_X_y=True)
    x = data.astype(np.float32)
    model = LogisticRegression(max_iter=1000).fit(x, target)

    with tempfile.TemporaryDirectory() as folder:
        path = {name: Path(folder, name) for name in ("iris.onnx", "spoilt.onnx", "x.npz")}
        dump = {name: str(Path(folder, f"{name}.safetensors")) for name in ("sklearn", "iris", "spoilt")}
        path["iris.onnx"].write_bytes(to_onnx(model, x[:1]).SerializeToString())
        spoil_coefficient(path["iris.onnx"], path["spoilt.onnx"])
        np.savez(path["x.npz"], X=x)

        write_dump(Path(dump["sklearn"]), {"X": x}, sklearn_taps(model, x))
        for name in ("iris", "spoilt"):
            file, inputs = str(path[f"{name}.onnx"]), str(path["x.npz"])
            alignkit(["capture", file, "--inputs", inputs, "-o", dump[name]])

        print("\nThe export against scikit-learn:\n")
        healthy = alignkit(["diff", dump["sklearn"], dump["iris"]])
        print("\nThe spoilt file against the export:\n")
        spoilt = alignkit(["diff", dump["iris"], dump["spoilt"]])
    return 0 if (healthy, spoilt) == (0, 1) else 1


if __name__ == "__main__":
    sys.exit(main())
