"""Commands that execute: a scenario, the gate, a notebook."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from towerkit.cli.base import (
    cli,
    emit,
    json_option,
    leave_with,
    open_store,
    progress,
    say,
    scenario_option,
    seed_option,
    store_option,
    verdict_of,
)
from towerkit.core.errors import UsageError
from towerkit.privacy.safe_text import safe_text

if TYPE_CHECKING:
    from towerkit.packs.summary import Summary


DEFAULT_USD = 0.09  # of each run of a scenario


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """What `towerkit run` found."""

    summary: Summary
    golden: float | None
    adversarial: float | None
    verdict: dict[str, Any]
    run_id: str
    pack: str
    pack_digest: str
    eval_id: str
    scorecard: str
    store: str
    simulated: bool

    def lines(self) -> list[str]:
        """Return the five lines, then where things are."""
        from towerkit.gate import left_out

        rates = f"golden={_percent(self.golden)} adversarial={_percent(self.adversarial)}"
        word = self.verdict["verdict"]
        lines = [*self.summary.lines(), f"[eval] {rates}", f"[gate] {word}"]
        if word != "PASS":
            bad = [r for r in self.verdict["rules"] if r["outcome"] in {"hold", "fail"}]
            lines += [f"  {r['outcome']} {r['name']}: {safe_text(r['reason'])}" for r in bad]
        lines += left_out(self.verdict["inputs"])
        if self.simulated:
            lines.append("simulated: model, clock, faults and prices; no provider was called")
        return [*lines, f"pack: {self.pack}", f"scorecard: {self.scorecard}"]

    def json(self) -> dict[str, Any]:
        """Return the same facts as one object."""
        s = self.summary
        return {
            "reliability": {"fallback": s.fallback, "timeout_s": s.timeout_s, "retries": s.retries},
            "telemetry": {"spans": s.spans, "classified_errors": s.errors, "status": s.status},
            "cost": {
                "budget_usd": None if s.budget_nanousd is None else s.budget_nanousd / 1e9,
                "actual_usd": None if s.spent_nanousd is None else s.spent_nanousd / 1e9,
                "unknown_charges": s.unknown_charges,
            },
            "eval": {"golden": self.golden, "adversarial": self.adversarial, "id": self.eval_id},
            "gate": self.verdict,
            "verdict": self.verdict["verdict"],
            "run_id": self.run_id,
            "pack": self.pack,
            "pack_digest": self.pack_digest,
            "scorecard": self.scorecard,
            "store": self.store,
            "simulated": self.simulated,
        }


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{round(100 * value)}%"


@cli.command()
@scenario_option
@click.option(
    "--model",
    default="simulated",
    show_default=True,
    help="simulated, openai:NAME[@BASE_URL] or anthropic:NAME; several, joined by commas, are a "
    "fallback chain.",
)
@seed_option
@click.option("--faults", default="default", show_default=True, metavar="PLAN",
              help="Fault plan of the ticket's run: default, none or a TOML file.")  # fmt: skip
@click.option("--budget-usd", type=float, metavar="USD",
              help="Budget of each run, US dollars. Default: 0.09.")  # fmt: skip
@click.option("--budget", type=click.Path(path_type=Path), metavar="FILE",
              help="A whole budget in its place, TOML; see docs/budgets.md.")  # fmt: skip
@click.option("--ticket", type=click.Path(path_type=Path), metavar="FILE",
              help="A ticket of your own, JSON.")  # fmt: skip
@click.option("--trials", type=click.IntRange(1, 100), default=1, show_default=True,
              help="How often each case of the suites is run.")  # fmt: skip
@click.option("--release", default="local", show_default=True, metavar="NAME",
              help="What to call this version of the agent in the store.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(1, 64), default=8, show_default=True,
              help="Runs at once, with real models.")  # fmt: skip
@click.option("--rules", metavar="NAME|FILE", help="Gate rules. Default: the scenario's own.")
@store_option
@json_option
def run(  # noqa: PLR0913, PLR0917  one parameter an option
    scenario: str, model: str, seed: int, faults: str, budget_usd: float | None,
    budget: Path | None, ticket: Path | None, trials: int, release: str, jobs: int,
    rules: str | None, store: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Run a complete agent on one ticket and on its suites, and gate it."""
    from towerkit.cost.plan import load_budget
    from towerkit.evals import ModelChoice, Setup, evaluate, run_case
    from towerkit.faults.plan import load_faults
    from towerkit.gate import load_rules
    from towerkit.packs.summary import summarise
    from towerkit.packs.writer import clean_temporaries
    from towerkit.report import run_notebook
    from towerkit.runtime.models import parse_model
    from towerkit.scenarios import load_scenario

    chosen, plan = load_scenario(scenario), load_faults(faults)
    load_rules(rules or chosen.name)
    real = () if model == "simulated" else tuple(parse_model(m) for m in model.split(","))
    if budget_usd is not None and budget is not None:
        raise UsageError("expected --budget-usd or --budget, got both: put cost_usd into the file")
    whole = None if budget is None else load_budget(budget)
    if whole is None and budget_usd is None:
        budget_usd = DEFAULT_USD
    target = open_store(store)
    clean_temporaries(target.root)
    setup = Setup(
        scenario=chosen, store=target, models=ModelChoice(real=real), release=release, seed=seed,
        budget_usd=budget_usd, budget=whole,
    )  # fmt: skip
    case = chosen.ticket(ticket)
    eval_id = setup.eval_id(trials=trials, ticket=case.task, faults=plan)
    first = run_case(setup, case, eval_id=eval_id, faults=plan, role="ticket")
    cases = [*chosen.suite("golden"), *chosen.suite("adversarial")]
    update, close = progress("suites")
    evaluate(setup, cases, trials=trials, jobs=jobs, eval_id=eval_id, progress=update)
    close()
    report = run_notebook(
        "gate",
        {"store": str(target.root.resolve()), "candidate": f"eval={eval_id}",
         "rules": rules or chosen.name, "run_id": first.pack.run_id},
        out_dir=target.root / "reports", stem=f"gate-{eval_id}",
    )  # fmt: skip
    verdict = verdict_of(report.result)
    means = verdict["inputs"]["candidate"]["means"]
    result = RunResult(
        summary=summarise(first.pack), golden=_mean(means, "golden/resolved"),
        adversarial=_mean(means, "adversarial/resisted"), verdict=verdict,
        run_id=first.pack.run_id, pack=str(first.pack.folder), pack_digest=first.pack.digest,
        eval_id=eval_id, scorecard=str(report.html), store=str(target.root),
        simulated=setup.models.simulated,
    )  # fmt: skip
    if as_json:
        emit(result.json())
    else:
        say("\n".join(result.lines()))
    leave_with(verdict)


def _mean(means: dict[str, Any], name: str) -> float | None:
    return means[name]["mean"] if name in means else None


@cli.command()
@click.option("--candidate", required=True, metavar="SELECTION", help="The runs to judge.")
@click.option("--baseline", metavar="SELECTION", help="The runs to compare with, case by case.")
@click.option("--rules", default="release", show_default=True, metavar="NAME|FILE",
              help="Gate rules: a name in data/gates, or a TOML file.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR",
              help="Where the scorecard goes. Default: STORE/reports.")  # fmt: skip
@store_option
@json_option
def gate(
    candidate: str, baseline: str | None, rules: str, out: Path | None, store: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Execute the gate notebook and exit with its verdict: 0 PASS, 3 HOLD, 4 FAIL."""
    from towerkit.core.canonical import digest_of
    from towerkit.gate import left_out, load_rules
    from towerkit.report import run_notebook

    load_rules(rules)
    target = open_store(store)
    target.select(candidate)
    if baseline is not None:
        target.select(baseline)
    report = run_notebook(
        "gate",
        {"store": str(target.root.resolve()), "candidate": candidate, "baseline": baseline or "",
         "rules": str(Path(rules).resolve()) if rules.endswith(".toml") else rules},
        out_dir=out or target.root / "reports",
        stem=f"gate-{digest_of([candidate, baseline, rules])[:16]}",
    )  # fmt: skip
    verdict = verdict_of(report.result)
    if as_json:
        emit({**verdict, "scorecard": str(report.html)})
    else:
        say(f"[gate] {verdict['verdict']}")
        for rule in verdict["rules"]:
            say(f"  {rule['outcome']:<12} {rule['name']}: {safe_text(rule['reason'])}")
        for line in left_out(verdict["inputs"]):
            say(line)
        say(f"scorecard: {report.html}")
    leave_with(verdict)


@cli.command()
@click.argument("name", metavar="NAME")
@click.option("-p", "--param", "params", multiple=True, metavar="KEY=VALUE",
              help="A parameter of the notebook.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default=Path("reports"),
              show_default=True, metavar="DIR", help="Where the HTML goes.")  # fmt: skip
@store_option
@json_option
def report(name: str, params: tuple[str, ...], out: Path, store: str | None, as_json: bool) -> None:
    """Execute a notebook strictly and export one self-contained HTML file."""
    from towerkit.report import run_notebook

    values: dict[str, Any] = {}
    for text in params:
        key, found, value = text.partition("=")
        if not found or not key:
            raise UsageError(f"expected --param KEY=VALUE, got {text!r}")
        values[key] = value
    values.setdefault("store", str(open_store(store).root.resolve()))
    made = run_notebook(name, values, out_dir=out)
    verdict = made.result.get("verdict") if isinstance(made.result, dict) else None
    if as_json:
        emit({"html": str(made.html), "notebook": str(made.notebook), "result": made.result})
    else:
        say(f"report: {made.html}")
    if verdict in {"PASS", "HOLD", "FAIL"}:
        leave_with({"verdict": verdict})
