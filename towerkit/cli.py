"""The command line: thin commands over the library.

Rule: text, JSON and exit code come from one result object. 0 PASS (or done), 3 HOLD, 4 FAIL (or
diverged); 2 is a usage error and 1 means that the tool broke and there is no verdict.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from towerkit import __version__
from towerkit.core.errors import TowerError, UsageError
from towerkit.privacy.safe_text import safe_text

if TYPE_CHECKING:
    from towerkit.packs.store import Pack, Store
    from towerkit.packs.summary import Summary


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
        rates = f"golden={_percent(self.golden)} adversarial={_percent(self.adversarial)}"
        word = self.verdict["verdict"]
        lines = [*self.summary.lines(), f"[eval] {rates}", f"[gate] {word}"]
        if word != "PASS":
            bad = [r for r in self.verdict["rules"] if r["outcome"] in {"hold", "fail"}]
            lines += [f"  {r['outcome']} {r['name']}: {safe_text(r['reason'])}" for r in bad]
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


def _emit(value: Any) -> None:
    click.echo(msgspec.json.encode(value).decode())


def _store(path: str | None) -> Store:
    from towerkit.packs.store import Store
    from towerkit.runtime.tower import default_store

    return Store(default_store() if path is None else Path(path))


def _progress(title: str) -> tuple[Callable[[int, int], None] | None, Callable[[], None]]:
    """Return a progress callback and its close; nothing when standard error is not a terminal."""
    if not sys.stderr.isatty():
        return None, lambda: None
    from tqdm import tqdm

    bar = tqdm(desc=title, unit="run", leave=False)

    def update(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return update, bar.close


store_option = click.option(
    "--store", metavar="DIR", help="The store. Default: TOWERKIT_STORE, else ./towerkit-store."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
scenario_option = click.option(
    "--scenario", required=True, metavar="NAME", help="Which complete agent to run."
)
seed_option = click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True,
    help="Seed of the simulated model, clock and jitter.",
)  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="towerkit")
def cli() -> None:
    """Operate LLM agents under production controls: reliability, telemetry, cost, gates.

    A SELECTION is release=NAME, scenario=NAME, run_id=ID, eval=ID, since=TIME, until=TIME, joined
    by commas. Exit codes: 0 PASS, 3 HOLD, 4 FAIL, 2 usage error, 1 the tool broke.
    """


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
@click.option("--budget-usd", type=float, default=0.09, show_default=True,
              help="Budget of each run, US dollars.")  # fmt: skip
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
def run(  # noqa: PLR0917  one parameter an option
    scenario: str, model: str, seed: int, faults: str, budget_usd: float, ticket: Path | None,
    trials: int, release: str, jobs: int, rules: str | None, store: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Run a complete agent on one ticket and on its suites, and gate it."""
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
    target = _store(store)
    clean_temporaries(target.root)
    setup = Setup(
        scenario=chosen, store=target, models=ModelChoice(real=real), release=release, seed=seed,
        budget_usd=budget_usd,
    )  # fmt: skip
    case = chosen.ticket(ticket)
    eval_id = setup.eval_id(trials=trials, ticket=case.task, faults=plan)
    first = run_case(setup, case, eval_id=eval_id, faults=plan, role="ticket")
    cases = [*chosen.suite("golden"), *chosen.suite("adversarial")]
    update, close = _progress("suites")
    evaluate(setup, cases, trials=trials, jobs=jobs, eval_id=eval_id, progress=update)
    close()
    report = run_notebook(
        "gate",
        {"store": str(target.root.resolve()), "candidate": f"eval={eval_id}",
         "rules": rules or chosen.name, "run_id": first.pack.run_id},
        out_dir=target.root / "reports", stem=f"gate-{eval_id}",
    )  # fmt: skip
    verdict = _verdict_of(report.result)
    means = verdict["inputs"]["candidate"]["means"]
    result = RunResult(
        summary=summarise(first.pack), golden=_mean(means, "golden/resolved"),
        adversarial=_mean(means, "adversarial/resisted"), verdict=verdict,
        run_id=first.pack.run_id, pack=str(first.pack.folder), pack_digest=first.pack.digest,
        eval_id=eval_id, scorecard=str(report.html), store=str(target.root),
        simulated=setup.models.simulated,
    )  # fmt: skip
    if as_json:
        _emit(result.json())
    else:
        click.echo("\n".join(result.lines()))
    _leave_with(verdict)


def _mean(means: dict[str, Any], name: str) -> float | None:
    return means[name]["mean"] if name in means else None


def _verdict_of(result: Any) -> dict[str, Any]:
    if not isinstance(result, dict) or result.get("verdict") not in {"PASS", "HOLD", "FAIL"}:
        raise TowerError("the gate notebook left no verdict: that is a HOLD without a reason")
    return result


def _leave_with(verdict: dict[str, Any]) -> None:
    from towerkit.gate import EXIT_CODES

    sys.exit(EXIT_CODES[verdict["verdict"]])


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
    from towerkit.gate import load_rules
    from towerkit.report import run_notebook

    load_rules(rules)
    target = _store(store)
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
    verdict = _verdict_of(report.result)
    if as_json:
        _emit({**verdict, "scorecard": str(report.html)})
    else:
        click.echo(f"[gate] {verdict['verdict']}")
        for rule in verdict["rules"]:
            click.echo(f"  {rule['outcome']:<12} {rule['name']}: {safe_text(rule['reason'])}")
        click.echo(f"scorecard: {report.html}")
    _leave_with(verdict)


@cli.command()
@click.option("--baseline", required=True, metavar="SELECTION|FILE", help="What was.")
@click.option("--live", required=True, metavar="SELECTION|FILE", help="What is now.")
@click.option("--columns", metavar="A,B,…", help="Only these columns.")
@click.option("--q", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.05,
              show_default=True, help="False discovery rate over all tests.")  # fmt: skip
@store_option
@json_option
def drift(
    baseline: str, live: str, columns: str | None, q: float, store: str | None, as_json: bool
) -> None:
    """Test live against baseline, column by column (FILE: a Parquet or CSV frame)."""
    from towerkit.drift import compare_sources

    report = compare_sources(
        _store(store), baseline=baseline, live=live, q=q,
        columns=columns.split(",") if columns else None,
    )  # fmt: skip
    if as_json:
        _emit({"baseline": baseline, "live": live, **report.to_dict()})
        return
    for row in report.rows:
        p = "p=unknown" if row.p_value is None else f"p={row.p_value:.3g}"
        effect = "effect=unknown" if row.effect is None else f"effect={row.effect:.3g}"
        click.echo(
            f"{'DRIFT' if row.drift else 'same ':<5} {safe_text(row.column):<28} {row.test:<12} "
            f"{p} {effect} n={row.n_baseline}/{row.n_live}"
        )
    drifted = sum(row.drift for row in report.rows)
    click.echo(f"[drift] {drifted} of {len(report.rows)} tests found drift at q={q:g}")


@cli.command()
@click.argument("source_format", metavar="FORMAT")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--release", metavar="NAME", help="What to call the agent that made these runs.")
@click.option("--jobs", type=click.IntRange(1, 16), default=2, show_default=True,
              help="Processes.")  # fmt: skip
@store_option
@json_option
def ingest(
    source_format: str, file: Path, release: str | None, jobs: int, store: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Turn recorded runs into packs. FORMAT: tau-bench, tau2 or agentdojo."""
    from towerkit.ingest import ingest as admit
    from towerkit.packs.writer import clean_temporaries

    target = _store(store)
    clean_temporaries(target.root)
    update, close = _progress(f"ingest {file.name}")
    report = admit(target, file, format=source_format, release=release, progress=update, jobs=jobs)
    close()
    if as_json:
        _emit(report)
    else:
        for problem in report.errors:
            click.echo(f"not imported: {safe_text(problem, limit=400)}", err=True)
        click.echo(
            f"[ingest] {report.imported} imported, {report.unchanged} unchanged, "
            f"{len(report.errors)} with errors; release={safe_text(report.release)} "
            f"store={target.root}"
        )
    if report.errors:
        sys.exit(1)


@cli.command()
@click.argument("run_id", metavar="RUN")
@click.option("--prompt", type=click.Path(path_type=Path), metavar="FILE",
              help="Replay with another system prompt.")  # fmt: skip
@store_option
@json_option
def replay(run_id: str, prompt: Path | None, store: str | None, as_json: bool) -> None:
    """Re-run a recorded scenario run offline; exit 0 when equal, 4 when it diverged."""
    from towerkit.replay import replay_scenario

    text = None if prompt is None else _read_text(prompt)
    report = replay_scenario(_store(store).pack(run_id), prompt=text)
    if as_json:
        _emit(report)
    else:
        click.echo("\n".join(report.lines()))
    sys.exit(0 if report.equal else 4)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None


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
    values.setdefault("store", str(_store(store).root.resolve()))
    made = run_notebook(name, values, out_dir=out)
    verdict = made.result.get("verdict") if isinstance(made.result, dict) else None
    if as_json:
        _emit({"html": str(made.html), "notebook": str(made.notebook), "result": made.result})
    else:
        click.echo(f"report: {made.html}")
    if verdict in {"PASS", "HOLD", "FAIL"}:
        _leave_with({"verdict": verdict})


@cli.group()
def pack() -> None:
    """Look into a store. A pack is named by run id or folder."""


@pack.command("ls")
@click.argument("selection", default="", metavar="[SELECTION]")
@store_option
@json_option
def pack_ls(selection: str, store: str | None, as_json: bool) -> None:
    """List packs, one line each."""
    packs = _store(store).select(selection)
    if as_json:
        _emit([_listed(p) for p in packs])
        return
    for p in packs:
        i = p.manifest["identity"]
        click.echo(
            f"{p.run_id} {p.manifest['status']:<9} {safe_text(i.get('scenario'), limit=32)} "
            f"release={safe_text(i.get('release'), limit=32)} "
            f"case={safe_text(i.get('case_id'), limit=48)}"
        )


def _listed(p: Pack) -> dict[str, Any]:
    i = p.manifest["identity"]
    return {
        "run_id": p.run_id, "status": p.manifest["status"], "scenario": i.get("scenario"),
        "release": i.get("release"), "case_id": i.get("case_id"), "digest": p.digest,
        "folder": str(p.folder), "simulated": p.manifest["simulated"],
    }  # fmt: skip


@pack.command("show")
@click.argument("name", metavar="RUN|FOLDER")
@store_option
@json_option
def pack_show(name: str, store: str | None, as_json: bool) -> None:
    """Show one pack: its facts and its spans as a tree."""
    from towerkit.packs.summary import summarise
    from towerkit.rca import span_tree

    found = _store(store).pack(name)
    summary = summarise(found)
    if as_json:
        _emit({"manifest": found.manifest, "summary": summary})
        return
    for line in summary.lines():
        click.echo(line)
    for row in span_tree(found.frame("spans")):
        mark = "" if row.status == "ok" else f"  {row.status}: {row.error_class}"
        click.echo(f"{'  ' * row.depth}{safe_text(row.name)} {row.duration_s:.3f}s{mark}")


@pack.command("verify")
@click.argument("names", nargs=-1, metavar="[RUN|FOLDER]…")
@store_option
@json_option
def pack_verify(names: tuple[str, ...], store: str | None, as_json: bool) -> None:
    """Check every file, row and root of packs (default: all); exit 1 when one does not hold."""
    target = _store(store)
    packs = [target.pack(n) for n in names] if names else target.select("")
    problems = {}
    for p in packs:
        try:
            p.verify()
        except TowerError as error:
            problems[p.run_id] = str(error)
    if as_json:
        _emit({"verified": len(packs) - len(problems), "problems": problems})
    else:
        for problem in problems.values():
            click.echo(f"broken: {safe_text(problem, limit=400)}", err=True)
        click.echo(f"[verify] {len(packs) - len(problems)} of {len(packs)} packs hold")
    if problems:
        sys.exit(1)


@pack.command("recover")
@store_option
@json_option
def pack_recover(store: str | None, as_json: bool) -> None:
    """Seal the runs whose process was killed, from their journals, as aborted."""
    from towerkit.core.env import SystemEnv
    from towerkit.telemetry.recover import recover

    salts = SystemEnv().secret_bytes(32, purpose="salts")
    found = list(recover(_store(store), salt_seed=salts))
    problems = {r.journal: r.problem for r in found if r.problem is not None}
    packs = [r.pack for r in found if r.pack is not None]
    if as_json:
        _emit({"recovered": [p.run_id for p in packs], "problems": problems})
    else:
        for journal, problem in problems.items():
            click.echo(f"{journal}: {safe_text(problem, limit=400)}", err=True)
        for p in packs:
            spans = p.manifest["spans"]
            click.echo(f"{p.run_id} aborted spans={spans['started']} open={spans['aborted']}")
        click.echo(f"[recover] {len(packs)} runs sealed")
    if problems:
        sys.exit(1)


@cli.command("chaos")
@scenario_option
@seed_option
@json_option
def chaos_command(scenario: str, seed: int, as_json: bool) -> None:
    """Inject every class of error at every call; exit 1 when the tower did not cope."""
    from towerkit.chaos import chaos, lines
    from towerkit.scenarios import load_scenario

    update, close = _progress("chaos")
    report = chaos(load_scenario(scenario), seed=seed, progress=update)
    close()
    if as_json:
        _emit(report)
    else:
        click.echo("\n".join(lines(report)))
    sys.exit(0 if report.holds else 1)


@cli.group()
def errors() -> None:
    """Say what an error is, what happens then and who has to mend it."""


@errors.command("ls")
@click.option("--markdown", is_flag=True, help="Print docs/errors.md.")
@json_option
def errors_ls(markdown: bool, as_json: bool) -> None:
    """List the error classes, one line each."""
    from towerkit.reliability.explain import describe, errors_page
    from towerkit.reliability.taxonomy import TAXONOMY

    if markdown:
        click.echo(errors_page(), nl=False)
    elif as_json:
        _emit([describe(row) for row in TAXONOMY.values()])
    else:
        for row in TAXONOMY.values():
            click.echo(f"{row.name:<21} {row.family:<14} {row.summary}")


@errors.command("show")
@click.argument("name", metavar="CLASS")
@json_option
def errors_show(name: str, as_json: bool) -> None:
    """Show what the tower does about one error class."""
    from towerkit.reliability.explain import describe, row_lines
    from towerkit.reliability.taxonomy import error_class

    row = error_class(name)
    if as_json:
        _emit(describe(row))
    else:
        click.echo("\n".join(row_lines(row)))


@errors.command("explain")
def errors_explain() -> None:
    """Explain errors from a log: JSON lines in, JSON lines out.

    Each line is {"provider", "http_status", "raw"}; raw is the body, or the exception's text as a
    log has it. A line that is not is answered {"error": …}, and the exit code is then 2.
    """
    from towerkit.reliability.explain import explain_line

    good = True
    for line in sys.stdin.buffer:
        answer, fine = explain_line(line)
        good = good and fine
        _emit(answer)
    if not good:
        sys.exit(2)


def main() -> None:
    """Run the command line: one sentence and the right exit code for whatever goes wrong."""
    # What the library would log when nobody listens, the commands say themselves.
    logging.getLogger("towerkit").addHandler(logging.NullHandler())
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        _fail("interrupted: what was stored is whole, run the command again to go on", 130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except TowerError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        _drop_output()
        sys.exit(1)
    except OSError as error:
        _drop_output()
        _fail(f"cannot go on: {error.strerror or error} ({error.filename or 'output'})", 1)
    except Exception as error:
        if os.environ.get("TOWERKIT_DEBUG"):
            raise
        _fail(
            f"internal error, {type(error).__name__}: {error}; set TOWERKIT_DEBUG=1 for the "
            "traceback and report it",
            1,
        )


def _drop_output() -> None:
    """Send what is still buffered nowhere: the interpreter would fail on it again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(sentence: str, code: int) -> None:
    click.echo(f"towerkit: {safe_text(sentence, limit=1200)}", err=True)
    sys.exit(code)
