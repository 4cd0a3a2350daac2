"""Frozen networks by name."""

__all__ = ["NETWORKS", "is_network", "network"]

from .lite0 import lite0
from .network import Network
from .timm_network import timm_network
from .transformers_network import transformers_network

# What a name may look like, as it is shown.
NETWORKS = ("lite0", "hf:NAME", "timm:NAME")


def is_network(name: str) -> bool:
    """Whether that is the name of a network, though it may not be there.

    Example:
        >>> is_network("lite0"), is_network("hf:facebook/dinov2-small"), is_network("pca")
        (True, True, False)
    """
    return name == "lite0" or (name.startswith(("hf:", "timm:")) and not name.endswith(":"))


def network(name: str) -> Network:
    """The network of that name, with its weights, in eval mode.

    Raises:
        ApproxMassError: it cannot be had here.
    """
    if name == "lite0":
        return lite0()
    if name.startswith("hf:"):
        return transformers_network(name)
    return timm_network(name)
