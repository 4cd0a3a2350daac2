"""A fitted detector as one graph for other runtimes."""

__all__ = ["export_onnx"]

from .onnx_file import export_onnx
