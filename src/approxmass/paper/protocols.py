"""Three ways to turn scores into a number, which the published tables do not keep apart.

- `balanced`: one score an image, as many outliers as usual images. The paper's text.
- `group`: one score for 32 images of one source, the mean of theirs; balanced.
- `released`: what the authors' released code does, for flows on pixels alone. Batches of 32; the
  gradient of the batch *mean*; BatchNorm by the statistics of the batch that is scored; scores cast
  to integers; all images of the outliers, training split included; trapezoid under the
  precision-recall curve. It explains published numbers, and is no measure of a detector.
"""

__all__ = ["GROUP", "PROTOCOLS", "check_protocol", "compare", "compare_released", "released_scores"]

import copy
from typing import Any

import numpy as np
import torch
from sklearn.metrics import auc, precision_recall_curve, roc_curve
from torch import Tensor

from ..baselines.base import Floats
from ..errors import ApproxMassError
from ..flows import RealNVP
from ..flows.pixels import dequantise, unit_pixels
from ..mass import log_prob_and_mass
from ..metrics import group_means, ood_metrics
from ..resumable import seeded_generator
from ..scores import capped

GROUP = 32
PROTOCOLS = {
    "balanced": "per image, balanced",
    "group": f"per group of {GROUP}, balanced",
    "released": "as the released code scores",
}


def check_protocol(name: str, experiment: str, known: tuple[str, ...]) -> None:
    """A protocol that `experiment` knows.

    Raises:
        ApproxMassError: it is not.
    """
    if name not in PROTOCOLS:
        raise ApproxMassError(f"--protocol is one of {', '.join(PROTOCOLS)}, not {name!r}")
    if name not in known:
        raise ApproxMassError(
            f"{experiment} has no protocol {name!r}: the released code scores flows on pixels by "
            "the batch; choose another, or table1 or table2"
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
    return {name: np.trunc(capped(np.array(values))) for name, values in found.items()}


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
