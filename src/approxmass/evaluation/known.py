"""Images of the fit among those that a detector is tried on."""

__all__ = ["known_warnings"]

from collections.abc import Mapping


def known_warnings(
    in_fit: Mapping[str, int], counts: Mapping[str, int], unit: str = "image"
) -> list[str]:
    """A line for each set that holds images of the fit.

    Arguments:
        in_fit: How many images of each set were in the fit, by their pixels.
        counts: How many it has.
        unit: What one of them is, in words.

    Example:
        >>> known_warnings({"new": 0, "test": 37}, {"new": 9, "test": 500})
        ['test: 37 of these 500 images were in the fit: ... leave them out']
    """
    lines = []
    for name, known in in_fit.items():
        if not known:
            continue
        count = f"{counts[name]:,} {unit}s"
        which = f"all {count}" if known == counts[name] else f"{known:,} of these {count}"
        were, them = ("was", "it") if known == 1 else ("were", "them")
        lines.append(
            f"{name}: {which} {were} in the fit: these figures are not those of new {unit}s; leave "
            f"{them} out"
        )
    return lines
