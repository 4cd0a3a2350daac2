"""Three ways to turn scores into a number, which the published tables do not keep apart.

- `balanced`: one score an image, as many OOD images as in-distribution ones. The paper's text.
- `group`: one score for 32 images of one source, the mean of theirs; balanced.
- `released`: what the authors' released code does, for flows on pixels alone. Batches of 32; the
  gradient of the batch *mean*; BatchNorm by the statistics of the batch that is scored; scores cast
  to integers; all images of the OOD set, training split included; trapezoid under the
  precision-recall curve. It explains published numbers, and is no measure of a detector.
"""

__all__ = [
    "GROUP",
    "MOST_RELEASED",
    "PER_IMAGE_OR_GROUP",
    "PROTOCOLS",
    "check_protocol",
    "compare",
    "compare_as_released",
    "compare_released",
    "released_scores",
]

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from sklearn.metrics import auc, precision_recall_curve, roc_curve
from torch import Tensor

from ..arrays import Floats, Pixels
from ..data.pixels import unit_pixels
from ..errors import ApproxMassError
from ..evaluation.metrics import group_means, ood_metrics
from ..flows import RealNVP
from ..flows.pixels import dequantise
from ..mass import log_prob_and_mass
from ..models.statistics import capped
from ..runtime.random import seeded_generator

GROUP = 32
PROTOCOLS = {
    "balanced": "per image, balanced",
    "group": f"per group of {GROUP}, balanced",
    "released": "as the released code scores",
}
# Those for scores of any method.
PER_IMAGE_OR_GROUP = ("balanced", "group")
# At laptop scale: OOD images of `released`, in the published ratio to 2,000 test images.
MOST_RELEASED = 14_000


def check_protocol(name: str, experiment: str, known: tuple[str, ...]) -> None:
    """A protocol that `experiment` knows.

    Raises:
        ApproxMassError: it is not.
    """
    if name not in PROTOCOLS:
        raise ApproxMassError(
            f"--protocol is one of {', '.join(PROTOCOLS)}, not {name!r}", code="unknown-row"
        )
    if name not in known:
        raise ApproxMassError(
            f"{experiment} has no protocol {name!r}: the released code scores flows on pixels by "
            "the batch; choose another, or table1 or table2",
            code="unknown-row",
        )


def compare(id_scores: Floats, ood_scores: Floats, protocol: str) -> dict[str, Any]:
    """Metrics under `balanced` or `group`, ready for JSON.

    Example:
        >>> far = compare(np.arange(64.0), np.arange(64.0) + 100, "group")
        >>> far["n_id"], far["auroc"]["value"]
        (2, 1.0)
    """
    size = GROUP if protocol == "group" else 1
    return ood_metrics(group_means(id_scores, size), group_means(ood_scores, size)).as_dict()


def released_scores(flow: RealNVP, images: Tensor, *, seed: int = 0) -> dict[str, Floats]:
    """One `mass` and one `nll` for each shuffled batch of 32 images, cast to integers.

    Arguments:
        flow: Its BatchNorm layers take the statistics of each batch; it is not changed.
        images: `(N, C, H, W)`, uint8. The last batch is of what is left.
        seed: Fixes the order and the dequantisation noise.
    """
    flow = copy.deepcopy(flow).train()
    device = next(flow.parameters()).device
    order = torch.randperm(len(images), generator=seeded_generator(seed, "released", 0))
    found: dict[str, list[float]] = {"mass": [], "nll": []}
    for number, rows in enumerate(torch.split(order, GROUP)):
        x = unit_pixels(images[rows].to(device))
        x = dequantise(x, seeded_generator(seed, "released noise", number, device))
        # That of the batch mean: each row's gradient carries 1/B.
        log_p, mass = log_prob_and_mass(lambda x: flow.log_prob(x) / len(x), x)
        found["mass"].append(mass.mean().item())
        found["nll"].append(-log_p.sum().item())
    return {
        name: capped(torch.tensor(values, dtype=torch.float64)).trunc().numpy()
        for name, values in found.items()
    }


def compare_as_released(
    flow: RealNVP, id_images: Pixels, oods: Mapping[str, Pixels]
) -> dict[str, dict[str, Any]]:
    """What `compare_released` says of `mass` and `nll`, by OOD set.

    Arguments:
        flow: It is not changed.
        id_images: In-distribution images `(N, C, H, W)`, uint8.
        oods: OOD images by name.
    """
    inside = released_scores(flow, torch.from_numpy(id_images))
    found = {}
    for name, images in oods.items():
        scores = released_scores(flow, torch.from_numpy(images))
        found[name] = {k: compare_released(inside[k], scores[k]) for k in inside}
    return found


def compare_released(id_scores: Floats, ood_scores: Floats) -> dict[str, Any]:
    """AUROC with its interval, and the released AUPR and TNR at 95% TPR; ID is positive.

    Classes are not balanced. AUPR is by trapezoids and the TNR is interpolated, as released.

    Example:
        >>> compare_released(np.zeros(3), np.ones(9))["aupr_id_positive_trapezoid"]
        1.0
    """
    metrics = ood_metrics(id_scores, ood_scores, balanced=False)
    truth = np.r_[np.ones(len(id_scores)), np.zeros(len(ood_scores))]
    likeness = -np.r_[id_scores, ood_scores]
    precision, recall, _ = precision_recall_curve(truth, likeness)
    fpr, tpr, _ = roc_curve(truth, likeness)
    return {
        "auroc": metrics.as_dict()["auroc"],
        "aupr_id_positive_trapezoid": float(auc(recall, precision)),
        "tnr95_id_positive_interpolated": float(np.interp(0.95, tpr, 1 - fpr)),
        "n_id": metrics.n_id,
        "n_ood": metrics.n_ood,
        "balanced": False,
    }
