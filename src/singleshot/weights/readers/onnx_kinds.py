"""Names of ONNX's operations that OpenVINO has under its own. Sources as in onnx.py."""

from __future__ import annotations

# ONNX's name -> OpenVINO's, where inputs are the same and no attribute matters.
SAME = {
    "Relu": "ReLU",
    "PRelu": "PReLU",
    "Sigmoid": "Sigmoid",
    "HardSwish": "HSwish",
    "Add": "Add",
    "Sub": "Subtract",
    "Mul": "Multiply",
    "Div": "Divide",
    "Exp": "Exp",
    "Ceil": "Ceil",
    "Floor": "Floor",
    "Sqrt": "Sqrt",
    "Neg": "Negative",
    "Max": "Maximum",
    "Min": "Minimum",
    "Pow": "Power",
    "Shape": "ShapeOf",
    "Greater": "Greater",
    "GreaterOrEqual": "GreaterEqual",
    "Expand": "Broadcast",
    "NonZero": "NonZero",
}
