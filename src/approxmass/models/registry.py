"""The models by the names of their methods."""

__all__ = ["METHODS", "OF_ROWS", "make_model", "model_class", "parse_options"]

import types
import typing
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal, cast

from ..errors import ApproxMassError
from .base import Model
from .flow import FlowModel
from .settings import check_options

# Where each lives. By name: a detector of one method loads no other, and baselines, which stand
# above this room, need not be known to it.
METHODS = {
    "flow": (FlowModel.__module__, "FlowModel"),
    "density": ("approxmass.models.density", "DensityModel"),
    "godin": ("approxmass.baselines.godin", "GODIN"),
    "mahalanobis": ("approxmass.baselines.mahalanobis", "Mahalanobis"),
    "mahalanobis-sees-ood": ("approxmass.baselines.mahalanobis", "MahalanobisSeesOOD"),
    "energy": ("approxmass.baselines.energy", "Energy"),
    "gradcon": ("approxmass.baselines.gradcon", "GradCon"),
    "ocgan": ("approxmass.baselines.ocgan", "OCGAN"),
    "autoencoder": ("approxmass.baselines.ocgan", "Autoencoder"),
    "nearest-neighbour": ("approxmass.baselines.plain", "NearestNeighbour"),
    "pca-residual": ("approxmass.baselines.plain", "PCAResidual"),
    "gaussian": ("approxmass.baselines.plain", "Gaussian"),
    "untrained-flow": ("approxmass.baselines.plain", "UntrainedFlow"),
    "png-size": ("approxmass.baselines.plain", "PNGSize"),
}
# Those that take rows of numbers as well as images.
OF_ROWS = ("flow", "density")

_BOOLS = {"true": True, "false": False}


def model_class(method: str) -> type[Model]:
    """The class of a method.

    Raises:
        ApproxMassError: there is no such method.

    Example:
        >>> model_class("gaussian").name
        'gaussian'
    """
    if not isinstance(method, str) or method not in METHODS:
        raise ApproxMassError(
            f"unknown method {method!r}: use one of {', '.join(METHODS)}", code="bad-option"
        )
    module, name = METHODS[method]
    return cast(type[Model], getattr(import_module(module), name))


def make_model(method: str, seed: int, options: Mapping[str, Any]) -> Model:
    """A model that has learnt nothing yet.

    Arguments:
        method: One of `METHODS`.
        seed: Fixes whatever is drawn.
        options: What its class takes besides.

    Raises:
        ApproxMassError: an unknown method or option, or a value out of range.
    """
    return model_class(method).make(seed, options)


def parse_options(method: str, words: Mapping[str, str]) -> dict[str, Any]:
    """Options written as text, each turned into what the method takes.

    Raises:
        ApproxMassError: an option that the method does not have, or text that is no number.

    Example:
        >>> parse_options("pca-residual", {"components": "8"})
        {'components': 8}
        >>> parse_options("flow", {"alpha": "auto", "epochs": "3"})
        {'alpha': 'auto', 'epochs': 3}
        >>> parse_options("flow", {"parts": "false"})
        {'parts': False}
    """
    kinds = model_class(method).option_types()
    check_options(method, words, kinds)
    return {name: _value(name, kinds[name], text) for name, text in words.items()}


def _value(name: str, kind: Any, text: str) -> Any:
    union = typing.get_origin(kind) in (types.UnionType, typing.Union)
    for of in typing.get_args(kind) if union else (kind,):
        if typing.get_origin(of) is Literal:
            if text in typing.get_args(of) or not union:  # its class says what it may be
                return text
            continue
        try:
            return _BOOLS[text] if of is bool else of(text)
        except (KeyError, ValueError):
            continue
    words = [w for of in typing.get_args(kind) for w in typing.get_args(of)] if union else []
    first = "true or false" if bool in typing.get_args(kind) else "a number"
    raise ApproxMassError(
        f"{name} takes {' or '.join([first, *map(str, words)])}, not {text!r}",
        code="bad-option",
    )
