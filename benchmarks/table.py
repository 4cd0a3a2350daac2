"""The results of the benchmarks as Markdown tables, and the chart of the growth.

    python benchmarks/table.py benchmarks/results

Writes `table.md` and `growth.svg` there. docs/performance.md has the same tables.
"""

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import busy
import lazy_penalty
import long
import rivals

FOLDER = Path(__file__).parent / "results"


def _read(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


def _times(found: dict[str, float]) -> str:
    return f"{found['median']:.2f}x ({found['low']:.2f}-{found['high']:.2f})"


def _share(found: dict[str, float]) -> str:
    return f"{found['median']:.0%} ({found['low']:.0%}-{found['high']:.0%})"


def _rate(found: dict[str, float]) -> str:
    return f"{found['median']:,.0f} ({found['low']:,.0f}-{found['high']:,.0f})"


def _of_maps(speed: dict[str, Any]) -> list[tuple[str, dict[str, float]]]:
    if "explain" not in speed:
        return []
    rate = speed["explained_images_per_second"]
    return [
        (f"explain: {rate:.0f} images/s after the start, with their pictures", speed["explain"])
    ]


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _machine(facts: dict[str, Any]) -> str:
    machine = facts["machine"]
    accelerator = machine["accelerator"]
    where = f"one {accelerator}" if accelerator else machine["processor"]
    threads = f", {machine['threads']} threads" if "threads" in machine else ""
    return f"{where}, {machine['cores']} cores{threads}, torch {machine['packages']['torch']}"


def pixels() -> str:
    """Penalised training of the compact flow."""
    facts = _read("pixels")
    heads = ["flow", "batch", "plain, images/s", "ours, images/s", "ours / plain"]
    heads += [
        "in float32",
        "penalty every 4th step",
        "likelihood alone",
        "of the convolutions' rate",
    ]
    heads += ["peak memory, MiB"]
    rows = []
    for row in facts["rows"]:
        rates, times, peak = row["images_per_second"], row["times_plain"], row["peak_mib"]
        rows.append(
            [
                row["flow"],
                str(row["batch"]),
                _rate(rates["plain"]),
                _rate(rates["ours"]),
                f"**{_times(times['ours'])}**",
                _times(times["ours, float32"]),
                f"**{_times(times['ours, every 4th'])}**",
                _times(row["times_plain_likelihood"]),
                _share(row["share_of_convolution_rate"]),
                f"{peak['ours']:,.0f} of {peak['plain']:,.0f}, {peak['ours'] / peak['plain']:.2f}x",
            ]
        )
    errors = facts["rows"][0]["gradient_error"], facts["rows"][-1]["gradient_error"]
    text = ", ".join(
        f"{name} {max(each[name] for each in errors):.1e}" for name in ("float32", "bfloat16")
    )
    first, last = facts["rows"][0], facts["rows"][-1]
    return "\n\n".join(
        [
            _table(heads, rows),
            f"Relative error of the gradient against float64, the larger of both flows: {text}. "
            f"A penalised step is {first['gigaflop_per_image']:.2f} (grey) and "
            f"{last['gigaflop_per_image']:.2f} GFLOP an image (colour); alone its convolutions "
            f"run at {last['convolution_gigaflop_per_second']:,.0f} GFLOP/s (colour, batch "
            f"{last['batch']}). "
            f"{_machine(facts)}.",
        ]
    )


def vectors() -> str:
    """Training on whitened codes."""
    facts = _read("vectors")
    found = facts["training"]
    rates, times = found["images_per_second"], found["times_zuko"]
    alone = found["times_likelihood"]
    ours = {"ours", "ours, float32", "ours, every 4th"}
    rows = []
    for name, each in rates.items():
        other = ""
        if name in ours:
            other = f"**{_times(times[name])}** of zuko's"
        elif name == "ours, likelihood alone":
            other = f"{_times(alone['zuko'])} of zuko's, {_times(alone['normflows'])} of normflows'"
        rows.append([name, _rate(each), other])
    fit, errors, product = (
        facts["fit"],
        found["gradient_error"],
        found["product_gigaflop_per_second"],
    )
    waiting = ""
    if "under_defaults" in facts:
        own = _times(facts["under_defaults"]["times_zuko"])
        waiting = f"With threads that wait as torch has them by default: {own} of zuko's. "
    flops = found["megaflop_per_image"]
    best = max(product.values()) * 1e3 / flops
    return "\n\n".join(
        [
            _table(["training", "images/s", "ratio"], rows),
            f"{fit['count']:,} images ({fit['images']}) to a calibrated detector: "
            f"{statistics.median(fit['seconds']):.1f} s ({fit['seconds'][0]:.1f}-"
            f"{fit['seconds'][-1]:.1f}). Relative error of the gradient against zuko in float64: "
            f"float32 {errors['float32']:.1e}, bfloat16 {errors['bfloat16']:.1e}. A penalised step "
            f"is {flops:.1f} MFLOP an image; a 1024x256x256 product runs at "
            f"{product['float32']:,.0f} GFLOP/s in float32 and {product['bfloat16']:,.0f} in "
            f"bfloat16, which would be {best:,.0f} images/s. {waiting}{_machine(facts)}.",
        ]
    )


def scoring() -> str:
    """Scoring."""
    facts = _read("scoring")
    rows = []
    for space, price in facts["price"].items():
        rates = price["images_per_second"]
        rows.append(
            [
                space,
                _rate(rates["log-likelihood"]),
                _rate(rates["all scores"]),
                f"**{_share(price['share_of_log_likelihood_rate'])}**",
            ]
        )
    found, memory = facts["images_per_second"], facts["memory"]
    (few, low), (many, high) = ((int(k), v) for k, v in memory["peak_mib"].items())
    return "\n\n".join(
        [
            _table(["encoder", "log-likelihood alone, images/s", "all scores", "share"], rows),
            f"With pca from an array {_rate(found['array'])} images/s, from a Parquet file of "
            f"PNGs {_rate(found['parquet of PNGs'])}. Peak memory {low:,.0f} MiB for {few:,} "
            f"images and {high:,.0f} MiB for {many:,}: {memory['growth']:+.1%}. {_machine(facts)}.",
        ]
    )


def photos() -> str:
    """Photos, whole process."""
    facts = _read("photos")
    net = facts["network"]
    height, width = facts["speed"]["height_width"]
    rows = [
        [
            f"{speed['images']:,} of {width}x{height}{how}",
            name,
            f"{found['seconds']:.0f} s",
            f"{found['peak_mib']:,.0f}",
        ]
        for how, speed in (
            ("", facts["speed"]),
            (", without parts", facts["speed_without_parts"]),
        )
        for name, found in (
            ("fit", speed["fit"]),
            ("the same fit again (cached)", speed["fit_again"]),
            (
                f"score: {speed['scored_images_per_second']:.0f} images/s after the start",
                speed["score"],
            ),
            *_of_maps(speed),
        )
    ]
    for found in facts.get("memory", []):
        height, width = found["height_width"]
        of = f"{found['images']:,} of {width}x{height}"
        rows.append([of, "fit", f"{found['seconds']:.0f} s", f"{found['peak_mib']:,.0f}"])
    return "\n\n".join(
        [
            _table(
                ["photos (JPEG in a folder)", "command", "whole process", "peak memory, MiB"], rows
            ),
            f"The network alone, 256x256: {_rate(net['images_per_second'])} images/s, "
            f"{net['gigaflop_per_image']:.2f} GFLOP each, which is "
            f"{net['share_of_convolution_rate']:.0%} of what this machine's dense 3x3 convolutions "
            f"of 64 channels reach ({net['dense_gigaflop_per_second']:,.0f} GFLOP/s in float32). "
            f"{_machine(facts)}.",
        ]
    )


def serve() -> str:
    """The server under load."""
    facts = _read("serve")
    names = {"valid": "valid requests alone", "valid_and_hostile": "half of the clients hostile"}
    rows = []
    for key, name in names.items():
        load = facts[key]
        rows.append(
            [
                name,
                f"{load['seconds']} s",
                f"{load['valid_requests']:,}",
                f"{sum(load['hostile_requests'].values()):,}",
                f"{load['requests_per_second']:,.0f}",
                f"{load['images_per_second']:,.0f}",
                f"{load['score_p50_ms']:,.0f} ms",
                f"{load['score_p99_ms']:,.0f} ms",
            ]
        )
    heads = ["load", "for", "answered", "attacks", "requests/s", "images/s", "median", "p99"]
    return "\n\n".join([_table(heads, rows), f"{facts['clients']} clients. {_machine(facts)}."])


def growth() -> str:
    """Growth with the size of things."""
    facts = _read("growth")
    rows = []
    for name, found in facts["growth"].items():
        rows.append(
            [
                name,
                ", ".join(f"{size:,}" for size in found["sizes"]),
                ", ".join(f"{taken:.2f}" for taken in found["seconds"]),
                ", ".join(f"{each:,.0f}" for each in found["peak_mib"]),
                f"{found['exponent']:.2f}",
            ]
        )
    return _table(["what grows", "sizes", "seconds", "memory added, MiB", "exponent"], rows)


def levers() -> str:
    """What each lever does, and what did not help."""
    facts = _read("levers")
    rows = [
        [name, _rate(found["images_per_second"]), _times(found["times_plain"])]
        for name, found in facts["kinds"].items()
    ]
    compiled, adam = facts["compiled"], facts["optimizer_milliseconds"]
    return "\n\n".join(
        [
            _table(["step, colour, batch 64", "images/s", "to plain"], rows),
            f"torch.compile of the plain step (torch.func.grad within, bfloat16): "
            f"{compiled['first_seconds']:.0f} s to its first step (what it compiled once was still "
            f"in its cache), then "
            f"{_rate(compiled['images_per_second'])} images/s, {_times(compiled['times_ours'])} of "
            f"ours beside it. AdamW with clipping takes {adam['AdamW']:.1f} ms a step, fused "
            f"{adam['AdamW, fused']:.1f} ms. {_machine(facts)}.",
        ]
    )


def gpu() -> str:
    """The published flows on a GPU."""
    facts, started = _read("gpu"), _read("gpu_compile")
    rows = []
    for case in facts["steps"]:
        base = case["kinds"]["plain, float32"]["images_per_second"]
        tf32 = case["kinds"]["plain, TF32 convolutions"]["images_per_second"]
        for kind, found in case["kinds"].items():
            speed = found["images_per_second"]
            rows.append(
                [
                    f"{case['flow']}, {case['batch']}",
                    kind,
                    f"{speed:,.0f} ({found['range'][0]:,.0f}-{found['range'][1]:,.0f})",
                    f"{speed / base:.1f}x",
                    f"{speed / tf32:.1f}x",
                    f"{speed * case['gigaflop_per_image'] / 1e3:.0f}",
                    f"{found['peak_mib']:,}",
                    f"{found['gradient_difference']:.2f}",
                ]
            )
    heads = [
        "flow, batch",
        "step",
        "images/s",
        "to float32",
        "to TF32",
        "TFLOP/s",
        "peak MiB",
        "gradient off by",
    ]
    (grey,) = started["steps"]
    theirs, ours = (grey["kinds"][kind] for kind in ("torch.compile, bfloat16", "ours"))
    rate = facts["matmul_tflops"]
    train = facts["train"]["vectors"]
    return "\n\n".join(
        [
            _table(heads, rows),
            f"torch.compile (torch.func.grad within): {theirs['first_seconds']:.0f} s to the first "
            f"step of the grey flow, then {theirs['images_per_second']:,.0f} images/s at batch "
            f"{grey['batch']}; ours beside it {ours['first_seconds']:.1f} s and "
            f"{ours['images_per_second']:,.0f}. An "
            f"8192-square product runs at {rate['bfloat16']:,.0f} TFLOP/s in bfloat16 and "
            f"{rate['float32']:,.0f} in float32. Training 54,000 codes for 4 epochs took "
            f"{train['graph_seconds']:.1f} s with the graph, {train['eager_seconds']:.1f} without, "
            f"to the same loss. {_machine(facts)}.",
        ]
    )


def _told(markdown: Callable[[Any], str], name: str) -> str:
    facts = _read(name)
    return f"{markdown(facts)}\n\n{_machine(facts)}."


TABLES = {
    "pixels": pixels,
    "vectors": vectors,
    "scoring": scoring,
    "photos": photos,
    "serve": serve,
    "growth": growth,
    "levers": levers,
    "lazy": lambda: lazy_penalty.markdown(FOLDER),
    "busy": lambda: _told(busy.markdown, "busy"),
    "rivals": lambda: _told(rivals.markdown, "rivals"),
    "long": lambda: _told(long.markdown, "long"),
    "gpu": gpu,
}


def chart(target: Path) -> None:
    """Seconds and memory by size, on logarithmic axes."""
    import altair as alt

    rows = [
        {"what": name, "size": size, "value": value, "measure": measure}
        for name, found in _read("growth")["growth"].items()
        for measure, key in (("seconds", "seconds"), ("memory added, MiB", "peak_mib"))
        for size, value in zip(found["sizes"], found[key], strict=True)
    ]
    base = alt.Chart(alt.Data(values=rows)).mark_line(point=True)
    plot = base.encode(
        x=alt.X("size:Q", scale=alt.Scale(type="log"), title=None),
        y=alt.Y("value:Q", scale=alt.Scale(type="log"), title=None),
        color=alt.Color("measure:N", legend=None),
    ).properties(width=170, height=150)
    plot.facet(
        column=alt.Column("what:N", title=None), row=alt.Row("measure:N", title=None)
    ).resolve_scale(x="independent", y="independent").save(target)


def main(folder: Path) -> None:
    """Write the tables and the chart."""
    parts = [f"## {name}\n\n{table()}" for name, table in TABLES.items()]
    (folder / "table.md").write_text("# Benchmarks\n\n" + "\n\n".join(parts) + "\n")
    chart(folder / "growth.svg")
    print((folder / "table.md").read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
