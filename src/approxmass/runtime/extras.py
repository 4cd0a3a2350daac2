"""Libraries that not everyone needs: which they are, and what to say where one is missing."""

__all__ = ["has_extra", "require_extra"]

from importlib.util import find_spec

from ..errors import ApproxMassError

# What each extra of pyproject.toml imports, to the name that pip knows it by.
_EXTRAS = {
    "report": {
        "altair": "altair",
        "vl_convert": "vl-convert-python",
        "jinja2": "jinja2",
    },
    "onnx": {"onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime"},
    "onnxruntime": {"onnxruntime": "onnxruntime"},
    "heif": {"pillow_heif": "pillow-heif"},
    "transformers": {"transformers": "transformers"},
    "timm": {"timm": "timm"},
    "ray": {"ray": "ray[data]"},
    "serve": {
        "altair": "altair",
        "vl_convert": "vl-convert-python",
        "fastapi": "fastapi",
        "starlette": "starlette",
        "pydantic": "pydantic",
        "uvicorn": "uvicorn",
        "h11": "h11",
        "python_multipart": "python-multipart",
        "prometheus_client": "prometheus-client",
    },
}


def _missing(extra: str) -> list[str]:
    return [name for module, name in _EXTRAS[extra].items() if find_spec(module) is None]


def has_extra(extra: str) -> bool:
    """Whether all libraries of an extra are installed.

    Example:
        >>> has_extra("report") in (True, False)
        True
    """
    return not _missing(extra)


def require_extra(extra: str, what: str) -> None:
    """Refuse to go on without the libraries of an extra.

    Arguments:
        extra: One of those of pyproject.toml.
        what: That needs them.

    Raises:
        ApproxMassError: one is missing; the message names all that are.
    """
    if missing := _missing(extra):
        raise ApproxMassError(
            f"{what} needs {', '.join(missing)}: pip install {' '.join(missing)}",
            code="missing-library",
        )
