"""Frozen networks by name."""

__all__ = ["NETWORKS", "is_network", "network"]

from .efficientnet_lite import SIZES, efficientnet_lite
from .network import Network
from .timm_network import timm_network
from .transformers_network import transformers_network

# What a name may look like, as it is shown.
NETWORKS = (*SIZES, "hf:NAME", "timm:NAME")


def is_network(name: str) -> bool:
    """Whether that is the name of a network, though it may not be there.

    Example:
        >>> is_network("lite0"), is_network("hf:facebook/dinov2-small"), is_network("pca")
        (True, True, False)
    """
    return name in SIZES or (name.startswith(("hf:", "timm:")) and not name.endswith(":"))


def network(name: str) -> Network:
    """The network of that name, with its weights, in eval mode.

    Raises:
        ApproxMassError: it cannot be had here.
    """
    if name in SIZES:
        return efficientnet_lite(name)
    if name.startswith("hf:"):
        return transformers_network(name)
    return timm_network(name)
