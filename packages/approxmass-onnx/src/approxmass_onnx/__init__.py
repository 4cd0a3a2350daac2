"""Scores with a detector that approxmass exported to ONNX, without PyTorch."""

__all__ = ["ApproxMassError", "OnnxDetector"]

from .errors import ApproxMassError
from .onnx_engine import OnnxDetector
