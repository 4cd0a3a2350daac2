"""What the published settings would cost here: what `--scale full` prints, training by training.

python tools/full_cost.py results/full_cost.json
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from approxmass.paper.cost import full_costs
from approxmass.runtime.machine import machine_facts
from approxmass.storage.atomic import write_json

# What the others share with these is left out: the flows of table2 are those of table1.
EXPERIMENTS: dict[str, tuple[str, ...]] = {
    "table1": (),
    "table2": ("energy", "godin"),
    "table3": ("flow", "autoencoder", "gradcon", "ocgan"),
}


def main(target: Path) -> None:
    """Measure a part of each training, and multiply."""
    costs = []
    for name, only in EXPERIMENTS.items():
        for cost in full_costs(name, only):
            costs.append({"experiment": name, **asdict(cost)})
            print(name, cost, flush=True)
    facts = {
        "command": f"python tools/full_cost.py {target}",
        "threads": torch.get_num_threads(),
        "costs": costs,
        "machine": machine_facts(),
    }
    write_json(target, facts)


def markdown(facts: dict[str, Any]) -> str:
    """A row a training."""
    lines = [
        f"| experiment | training | FLOP | hours on {facts['threads']} threads |",
        "|---|---|---|---|",
    ]
    for cost in facts["costs"]:
        hours = cost["seconds"] / 3600
        lines.append(
            f"| {cost['experiment']} | {cost['name']} | {cost['flops']:.1e} | {hours:,.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
