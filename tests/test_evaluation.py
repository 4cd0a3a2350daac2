import numpy as np

from approxmass.evaluation.metrics import auroc, group_means
from approxmass.evaluation.protocol import evaluate
from conftest import mistake


def scores(n: int, shift: float, seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {"mass": generator.normal(shift, 1, n), "nll": generator.normal(0, 1, n)}


def test_every_score_on_every_set_with_the_protocol_named() -> None:
    inside = scores(500, 0, 0)
    sets = {"near": scores(500, 1, 1), "far": scores(500, 5, 2)}
    result = evaluate("inside", inside, sets)
    assert result.protocol == "per image, balanced"
    found = {(row.ood, row.score): row.metrics.auroc.value for row in result.rows}
    assert found == {
        (ood, name): auroc(inside[name], sets[ood][name]) for ood in sets for name in inside
    }


def test_groups_are_means_and_say_so() -> None:
    inside, other = scores(640, 0, 0), scores(640, 0.5, 1)
    single = evaluate("inside", inside, {"other": other})
    group = evaluate("inside", inside, {"other": other}, group_size=32, seed=4)
    assert group.protocol == "per group of 32, balanced"
    mass = group.rows[0].metrics
    assert (mass.n_id, mass.n_ood) == (20, 20)
    expected = auroc(
        group_means(inside["mass"], 32, seed=4), group_means(other["mass"], 32, seed=4)
    )
    assert mass.auroc.value == expected
    assert mass.auroc.value > single.rows[0].metrics.auroc.value + 0.2


def test_the_larger_set_is_cut_down_to_the_smaller() -> None:
    result = evaluate("inside", scores(1000, 0, 0), {"other": scores(100, 1, 1)})
    assert result.rows[0].metrics.n_id == result.rows[0].metrics.n_ood == 100


def test_too_few_images_for_a_group() -> None:
    with mistake("too-few"):
        evaluate("inside", scores(10, 0, 0), {"other": scores(10, 0, 1)}, group_size=32)
