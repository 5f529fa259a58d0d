"""Small stores of made-up runs, for the tests of drift, root cause and report."""

from __future__ import annotations

from towerkit.packs.store import Pack, Store
from towerkit.packs.tables import COSTS, INPUTS, SCORES, SPANS
from towerkit.packs.writer import Draft

STARTED = 1_767_571_200_000_000_000


def run_id(i: int) -> str:
    """Return the id of run number `i`."""
    return f"01900000-0000-7000-8000-{i:012x}"


def span_id(i: int) -> str:
    """Return the id of span number `i`."""
    return f"{i + 1:016x}"


class FakeRun:
    """Collects the spans of one run: `call` adds a logical call with its attempts."""

    def __init__(
        self,
        i: int,
        *,
        release: str = "a",
        status: str = "ok",
        error_class: str | None = None,
        clock: str = "virtual",
    ) -> None:
        self.i, self.release, self.clock, self.error_class = i, release, clock, error_class
        self.rows: list[tuple] = []
        self.costs: list[tuple] = []
        self._add(
            kind="run",
            name="invoke_agent",
            parent=None,
            status=status,
            error_class=error_class,
            gen_ai_operation_name="invoke_agent",
            duration_ns=5_000_000_000,
        )

    def _add(self, *, parent, status="ok", duration_ns=1_000_000_000, **values) -> int:
        n = len(self.rows)
        self.rows.append(
            SPANS.make(
                run_id=run_id(self.i),
                span_id=span_id(n),
                seq=n,
                status=status,
                parent_span_id=None if parent is None else span_id(parent),
                start_unix_ns=STARTED + n * 100_000_000,
                duration_ns=duration_ns,
                simulated=True,
                attributes="{}",
                events="[]",
                **values,
            )
        )
        return n

    def call(
        self,
        name: str,
        *,
        chat: bool = False,
        request: int = 0,
        attempts=(("ok", None, 0),),
        parent: int = 0,
        finish: str | None = None,
    ) -> int:
        """Add a call; `attempts` are (status, error class, fallback tier)."""
        operation = "chat" if chat else "execute_tool"
        own = {"gen_ai_request_model" if chat else "gen_ai_tool_name": name}
        digest = f"{request:032x}"
        status, error_class, _ = attempts[-1] if attempts else ("ok", None, 0)
        call = self._add(
            kind="call",
            name=f"{operation} {name}",
            parent=parent,
            status=status,
            error_class=error_class,
            gen_ai_operation_name=operation,
            request_digest=digest,
            **own,
        )
        for k, (status, error, tier) in enumerate(attempts):
            n = self._add(
                kind="attempt",
                name=f"{operation} {name}",
                parent=call,
                status=status,
                error_class=error,
                attempt=k + 1,
                fallback_tier=tier,
                request_digest=digest,
                gen_ai_operation_name=operation,
                **own,
                **(
                    {
                        "gen_ai_usage_input_tokens": 100,
                        "gen_ai_usage_output_tokens": 10,
                        "gen_ai_response_finish_reason": finish,
                    }
                    if chat and status == "ok"
                    else {}
                ),
            )
            if chat:
                self.costs.append(
                    COSTS.make(
                        run_id=run_id(self.i),
                        span_id=span_id(n),
                        seq=len(self.costs),
                        purpose="agent",
                        model=name,
                        estimated=False,
                        wasted=status != "ok",
                        simulated=True,
                        cost_nanousd=1_000_000 if status == "ok" else 0,
                    )
                )
        return call

    def commit(self, store: Store) -> Pack:
        """Seal the run into `store`."""
        task = INPUTS.make(
            run_id=run_id(self.i),
            seq=0,
            kind="task",
            name="task",
            parent_path="",
            occurrence=0,
            outcome="ok",
            start_offset_ns=0,
            latency_ns=0,
        )
        manifest = {
            "run_id": run_id(self.i),
            "started_unix_ns": STARTED,
            "clock": self.clock,
            "identity": {"release": self.release, "scenario": "made-up"},
            "source": {"kind": "live"},
            "status": "completed",
            "error_class": self.error_class,
            "duration_ns": 5_000_000_000,
            "simulated": True,
            "budget": None,
            "redactor": {"version": "2", "key_id": "sim", "capture": "redacted"},
            "spans": {
                "started": len(self.rows),
                "ended": len(self.rows),
                "aborted": 0,
                "dropped": 0,
            },
        }
        return store.commit(
            Draft(
                manifest=manifest,
                spans=self.rows,
                costs=self.costs,
                inputs=[task],
                content=[],
                salt_seed=b"salt",
            ),
            durable=False,
        )


def score(
    pack: Pack,
    value: float | None,
    *,
    metric: str = "reward",
    primary: bool = True,
    error_class: str | None = None,
    contradicted: bool = False,
    release: str = "a",
) -> tuple:
    """Return one row of scores for `pack`."""
    return SCORES.make(
        run_id=pack.run_id,
        pack_digest=pack.digest,
        eval_id="e",
        scenario="made-up",
        release=release,
        suite="golden",
        case_id=pack.run_id,
        trial=0,
        metric=metric,
        value=value,
        scored=value is not None,
        primary=primary,
        error_class=error_class,
        contradicted=contradicted,
        simulated=True,
    )
