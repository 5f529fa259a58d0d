"""How long it takes to account a million attempts of a lake, beside summing one column by group.

`account_s` is every view over the charges: by model, tenant, release and tool, waste, cost per
success, forecast. `price_s` prices each of them again at its own time. The floor is the least that
any accounting does: one sum by model. Prints one JSON line: medians and minima of interleaved
rounds. Run: `python benchmarks/bench_cost.py [--rounds N] [--charges N]`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from datetime import date

import numpy as np
import polars as pl

from towerkit.core.env import SystemEnv
from towerkit.cost.frames import price_frame
from towerkit.cost.prices import default_book
from towerkit.cost.views import forecast, per_success, total, waste

MODELS = [
    ("openai", "gpt-4o"), ("openai", "gpt-4.1-mini"), ("anthropic", "claude-sonnet-4-5"),
    ("google", "gemini-2.5-pro"), ("deepseek", "deepseek-v4-flash"), ("acme", "unknown"),
]  # fmt: skip
MONTH_NS = 30 * 86_400 * 10**9
START = 1_793_491_200 * 10**9  # 2026-11-01


def lake(rows: int) -> pl.DataFrame:
    """Return charges of a month: six models, of which one has no price, in 50,000 runs."""
    rng = np.random.default_rng(7)
    of = rng.integers(0, len(MODELS), rows)
    given = rng.integers(100, 300_000, rows)
    made = rng.integers(1, 4000, rows)
    frame = pl.DataFrame({
        "run_id": rng.integers(0, max(1, rows // 20), rows), "of": of,
        "input_tokens": given, "output_tokens": made, "cache_read_tokens": given // 3,
        "cache_write_tokens": given // 10, "reasoning_tokens": made // 2,
        "at_unix_ns": START + rng.integers(0, MONTH_NS, rows),
        "tenant": rng.integers(0, 40, rows), "release": rng.integers(0, 4, rows),
        "tool": rng.integers(0, 12, rows), "waste": rng.integers(0, 40, rows),
    })  # fmt: skip
    names = pl.DataFrame({"of": range(len(MODELS)), "provider": [p for p, _ in MODELS],
                          "model": [m for _, m in MODELS]})  # fmt: skip
    kinds = {0: "retries", 1: "discarded", 2: "cancelled"}
    return frame.join(names, on="of", how="left", maintain_order="left").with_columns(
        pl.col("run_id", "tenant", "release", "tool").cast(pl.String),
        waste=pl.col("waste").replace_strict(kinds, default=None, return_dtype=pl.String),
        wasted=pl.col("waste") < 3, estimated=pl.col("waste") == 5,
        day=pl.from_epoch("at_unix_ns", time_unit="ns").dt.date(),
    )  # fmt: skip


def account(charges: pl.DataFrame, runs: pl.DataFrame) -> None:
    """Take every view."""
    for by in ("model", "tenant", "release", "tool"):
        total(charges, by)
    waste(charges)
    per_success(charges, runs)
    forecast(charges, today=date(2026, 11, 20))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--charges", type=int, default=1_000_000)
    options = parser.parse_args()
    env, book = SystemEnv(seed=0), default_book()
    bare = lake(options.charges)
    charges = bare.with_columns(
        price_frame(bare, book=book)["priced_nanousd"].alias("cost_nanousd")
    )
    assert charges["cost_nanousd"].null_count() > 0
    runs = charges.select("run_id").unique().with_columns(success=pl.col("run_id").hash() % 3 > 0)
    account(charges, runs)  # imports what is imported on first use
    times: dict[str, list[float]] = {"floor": [], "account": [], "price": []}
    for _ in range(options.rounds):
        for name, work in (
            ("floor", lambda: charges.group_by("model").agg(pl.col("cost_nanousd").sum())),
            ("account", lambda: account(charges, runs)),
            ("price", lambda: price_frame(charges, book=book)),
        ):
            start = env.mono_ns()
            work()
            times[name].append((env.mono_ns() - start) / 1e9)
    figure: dict[str, object] = {"benchmark": "cost", "charges": options.charges}
    for name, seconds in times.items():
        figure[f"{name}_s"] = round(statistics.median(seconds), 3)
        figure[f"{name}_min_s"] = round(min(seconds), 3)
    ratio = statistics.median(times["account"]) / statistics.median(times["floor"])
    print(json.dumps(figure | {"account_over_floor": round(ratio, 1)}))


if __name__ == "__main__":
    main()
