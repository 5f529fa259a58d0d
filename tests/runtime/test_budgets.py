"""Budgets of a run at work: who is refused, what is done instead, and that it replays."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import threading

import pytest

from tests.agents import make_tower
from tests.cost.kinds import KINDS, chunks
from tests.runtime.test_stream import read, scripted, whole
from towerkit.core.env import VirtualEnv
from towerkit.core.errors import BudgetExceeded, ControlError
from towerkit.core.types import Model, Response, Usage
from towerkit.cost.budget import Limits
from towerkit.cost.plan import Budget
from towerkit.cost.tokens import FRAME, MESSAGE, Asked, TokenBook, counter
from towerkit.reliability.policy import Policy
from towerkit.replay import replay
from towerkit.runtime import models

HELLO = [{"role": "user", "content": "hello"}]
LONG = [{"role": "user", "content": "hello " * 20}, {"role": "user", "content": "and now?"}]


def ask(run, n=0):
    """Make one model call; its address is redacted, and so of another length on the tape."""
    return run.model([{"role": "user", "content": f"hello ann.{n}@example.com"}])


def under(tmp_path, budget, agent, **options):
    """Run `agent(run)` under a budget; return the run, what it raised, and hold its replay."""
    tower = make_tower(tmp_path, budget_usd=None, budget=budget, **options)
    raised = None
    run = tower.run("x", task={})
    try:
        with run:
            agent(run)
    except ControlError as error:
        raised = error
    report = replay(run.pack, lambda again, _: agent(again))
    assert report.equal, report.lines()
    if run.budgets is not None:
        accounts = [run.budgets.purse.run, *run.budgets.purse._tools.values()]
        assert all(account.reserved == [0] * 5 for account in accounts)
    assert run.ledger.reserved == 0
    return run, raised


def events(run, name):
    """Return the events of a name on the run's spans."""
    rows = run.pack.frame("spans")["events"].to_list()
    return [event for row in rows for event in json.loads(row) if event["name"] == name]


def three(run):
    """Make three model calls."""
    for n in range(3):
        ask(run, n)


# A call of the simulated clerk: at most about 0.011 dollars, and 0.00045 when it is over.
@pytest.mark.parametrize(
    ("limits", "limit", "made"),
    [
        ({"calls": 2}, "calls", 2), ({"input_tokens": 200}, "input_tokens", 2),
        ({"output_tokens": 1030}, "output_tokens", 1), ({"cost_usd": 0.0108}, "cost_usd", 1),
        ({"wall_s": 1.0}, "wall_s", 2), ({"working_s": 0.7}, "working_s", 1),
    ],
)  # fmt: skip
def test_each_limit_stops_the_run_and_its_pack_is_whole(tmp_path, limits, limit, made):
    """The call that does not fit is not made, of its own class, and the run has stopped."""
    run, raised = under(tmp_path, Budget(run=Limits(**limits)), three)
    assert isinstance(raised, BudgetExceeded)
    assert (raised.account, raised.limit) == ("the run", limit)
    assert run.pack.frame("costs").height == made
    assert run.pack.manifest["status"] == "stopped"
    assert run.pack.manifest["error_class"] == "budget_exceeded"
    assert run.pack.manifest["budget"]["plan"] == {"run": limits}
    run.pack.verify()


def test_a_part_has_limits_of_its_own_and_what_is_around_it_goes_on(tmp_path):
    """One call inside, refused the second; outside the run goes on. Parts nest."""

    def agent(run):
        with run.budget("researcher", calls=2):
            ask(run)
            with run.budget("reader", calls=1):
                ask(run, 1)
                with pytest.raises(BudgetExceeded, match="reader has 0 of 1 calls"):
                    ask(run, 2)
            with pytest.raises(BudgetExceeded, match="researcher has 0 of 2 calls"):
                ask(run, 3)
        ask(run, 4)

    run, raised = under(tmp_path, Budget(), agent)
    assert raised is None
    assert run.pack.frame("costs").height == 3
    part = run.pack.frame("spans").filter(name="researcher").row(0, named=True)
    assert json.loads(part["attributes"]) == {"budget": {"calls": 2}}


def test_a_tool_has_limits_and_what_it_calls_counts_there(tmp_path):
    """A tool that asks a model once each time: the second model call in it is refused."""
    budget = Budget(tools={"search": Limits(calls=1, tool_calls=5)})
    with make_tower(tmp_path, budget_usd=None, budget=budget).run("x") as run:

        def search(n):
            return ask(run, n).content

        ask(run)
        run.tool(search, {"n": 1}, idempotent=True)
        with pytest.raises(BudgetExceeded, match="tool search has 0 of 1 calls"):
            run.tool(search, {"n": 2}, idempotent=True)
        ask(run, 3)
    assert run.budgets.purse._tools["search"].spent[3:] == [1, 2]


def test_threads_and_tasks_stop_at_their_next_call(tmp_path):
    """Sixteen threads, then sixteen tasks, on a limit of ten calls: ten are made."""
    model = models.function(lambda _: Response(content="yes"), name="m", provider="p")
    tower = make_tower(
        tmp_path, budget_usd=None, budget=Budget(run=Limits(calls=10)), models=[model],
        policy=Policy(max_repeats=99, max_stale=99),
    )  # fmt: skip
    refused = []

    def call(run, n):
        try:
            ask(run, n)
        except BudgetExceeded:
            refused.append(n)

    with tower.run("x") as run:
        threads = [threading.Thread(target=call, args=(run, n)) for n in range(16)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert (len(refused), run.pack.frame("costs").height) == (6, 10)

    async def tasks(run):
        found = await asyncio.gather(
            *(run.amodel(HELLO) for _ in range(16)), return_exceptions=True
        )
        return sum(isinstance(one, BudgetExceeded) for one in found)

    with tower.run("y") as run:
        assert asyncio.run(tasks(run)) == 6


def test_of_calls_that_go_at_once_the_same_one_is_refused_in_a_replay(tmp_path):
    """Which of three fits depends on who comes first: that is on the tape, not decided again."""

    def agent(run):
        async def late(n):
            for _ in range(5 * n if run.executor.enforces else 15 - 5 * n):
                await asyncio.sleep(0)  # another order in the replay
            with run.step(f"part {n}"):
                return await run.amodel([{"role": "user", "content": f"question {n}"}])

        async def all_of_them():
            found = await asyncio.gather(*map(late, range(3)), return_exceptions=True)
            return [isinstance(one, BudgetExceeded) for one in found]

        refused.append(asyncio.run(all_of_them()))

    refused = []
    tower = make_tower(tmp_path, budget_usd=None, budget=Budget(run=Limits(calls=2)))
    with tower.run("x", task={}) as run:
        agent(run)
    replay(run.pack, lambda again, _: agent(again))
    assert refused == [[False, False, True]] * 2


def test_a_refusal_is_not_retried_and_does_not_touch_the_breaker(tmp_path):
    """No second attempt, no fallback, the permit is back."""
    tower = make_tower(tmp_path, budget_usd=None, budget=Budget(run=Limits(output_tokens=9)))
    with pytest.raises(BudgetExceeded), tower.run("x") as run:
        ask(run)
    spans = run.pack.frame("spans")
    assert spans.filter(kind="attempt").height == 0
    assert spans.filter(kind="call")["error_class"].to_list() == ["budget_exceeded"]
    breaker = tower.breaker("model:simulated/sim-clerk-large")
    assert (breaker.state(0), breaker.counted()) == ("closed", (0, 0))


@pytest.mark.parametrize("limits", [{"cost_usd": 0.01}, {"output_tokens": 700}])
def test_clamp_asks_for_fewer_tokens(tmp_path, limits):
    """The request that is sent asks for what fits, and its span says so."""
    asked = []

    def complete(request):
        asked.append(request.max_tokens)
        return Response(content="ok", usage=Usage(input_tokens=20, output_tokens=5))

    model = models.function(complete, name="sim-clerk-large", provider="simulated", simulated=True)
    budget = Budget(run=Limits(**limits), short="clamp")
    run, raised = under(tmp_path, budget, ask, models=[model])
    assert raised is None
    assert 500 < asked[0] < 1024
    (event,) = events(run, "clamp")
    assert (event["max_tokens"], event["limit"]) == (asked[0], next(iter(limits)))
    attempt = run.pack.frame("spans").filter(kind="attempt")["attributes"][0]
    assert json.loads(attempt) == {"gen_ai.request.max_tokens": asked[0]}
    worst = 10_000 * asked[0] + 2_500 * (
        len(b'{"content":"hello ann.0@example.com","role":"user"}') + MESSAGE + FRAME
    )
    assert "cost_usd" not in limits or 10_000_000 - 10_000 < worst <= 10_000_000


def test_clamp_gives_up_below_an_answer(tmp_path):
    """What fits are fewer tokens than an answer has: refused, with what was left."""
    budget = Budget(run=Limits(output_tokens=12), short=("clamp", "cheaper"))
    _, raised = under(tmp_path, budget, ask)
    assert isinstance(raised, BudgetExceeded)
    assert raised.left == 12


def test_compact_sends_fewer_messages_once(tmp_path):
    """The user's function is asked once; the tape has what it made, and the attempt its digest."""
    calls = []

    def compact(messages):
        calls.append(len(messages))
        return list(messages)[-1:]

    budget = Budget(run=Limits(input_tokens=150), short="compact", compact=compact)
    run, raised = under(tmp_path, budget, lambda run: run.model(LONG))
    assert (raised, calls) == (None, [2])
    attempt = run.pack.frame("spans").filter(kind="attempt").row(0, named=True)
    sent = run.pack.content(attempt["request_digest"])["messages"]
    assert [run.pack.content(digest) for digest in sent] == LONG[-1:]
    call = run.pack.frame("spans").filter(kind="call").row(0, named=True)
    assert len(run.pack.content(call["request_digest"])["messages"]) == 2


def test_cheaper_takes_the_first_tier_that_fits_and_says_why(tmp_path):
    """The small clerk costs less; the answer, the span and its event say that the budget chose."""
    answers = []

    def agent(run):
        answers.append(ask(run))

    budget = Budget(run=Limits(cost_usd=0.005), short="cheaper")
    run, raised = under(tmp_path, budget, agent)
    assert raised is None
    assert (answers[0].tier, answers[0].fallback_reason) == (1, "budget_exceeded")
    assert events(run, "cheaper")[0]["tier"] == 1
    attempts = run.pack.frame("spans").filter(kind="attempt")
    assert attempts["fallback_reason"].to_list() == ["budget_exceeded"]
    assert attempts["attempt"].to_list() == [1]


def test_a_ladder_is_set_aside_before_the_first_attempt_and_given_back(tmp_path):
    """Four attempts do not fit three calls; where they fit, retries find theirs."""
    _, raised = under(tmp_path, Budget(run=Limits(calls=3), ladder=True), ask)
    assert (raised.left, raised.wanted) == (3, 4)
    left = [ConnectionRefusedError("no"), ConnectionRefusedError("no")]

    def complete(_request):
        if left:
            raise left.pop()
        return Response(content="ok")

    model = models.function(complete, name="sim-clerk-large", provider="simulated", simulated=True)
    run, raised = under(
        tmp_path, Budget(run=Limits(calls=4), ladder=True), ask, models=[model]
    )  # fmt: skip
    assert raised is None
    assert run.budgets.purse.run.spent[3] == 3


def test_a_stream_that_says_more_than_it_was_asked_for_is_cut_where_the_budget_ends(tmp_path):
    """Asked for 64 tokens it goes on for 2,000: what came is kept, and charged once."""
    pieces = ["and so it goes on and on " * 2] * 300
    got = []

    def agent(run):
        for piece in run.stream(HELLO, max_tokens=64):
            got.append(piece)  # noqa: PERF402  what came before it raises counts

    budget = Budget(run=Limits(output_tokens=400))
    run, raised = under(tmp_path, budget, agent, models=[scripted(whole(*pieces))])
    assert isinstance(raised, BudgetExceeded)
    assert "the stream was cut after about" in str(raised)
    charge = run.pack.frame("costs").row(0, named=True)
    assert run.pack.frame("costs").height == 1
    assert charge["estimated"]
    assert 300 < charge["output_tokens"] < 500
    assert 20 < len(got[: len(got) // 2]) < 100
    assert run.pack.manifest["status"] == "stopped"


def test_a_stream_is_cut_when_its_time_is_up(tmp_path):
    """A second for the part, a piece every 0.3 s: three or four came."""
    env = VirtualEnv(1)

    def stream(_request, _timeout_s):
        for _ in range(20):
            env.sleep(0.3)
            yield "piece "

    model = Model(name="sim-clerk-large", provider="simulated", complete=lambda *_: None,
                  stream=stream, simulated=True)  # fmt: skip
    tower = make_tower(tmp_path, budget_usd=None, models=[model])
    pieces = []
    with pytest.raises(BudgetExceeded, match="the time of reader is up"), \
            tower.run("x", env=env) as run, run.budget("reader", wall_s=1.0):  # fmt: skip
        pieces.extend(run.stream(HELLO))
    assert pieces == ["piece "] * 3
    assert run.pack.frame("costs")["output_tokens"].to_list() == [4]


# -- a stream cut anywhere is charged once ---------------------------------------------------------

QUESTION = [
    {"role": "system", "content": "You look orders up and answer in one sentence."},
    {"role": "user", "content": "Where is order 7 of last week, and when will it be here?"},
]
# Models that answer, whose tokenizer that is in truth, and whether it is known before the answer.
TRUTHS = {
    "gpt-4o": ("openai", "o200k_base"), "stranger-a": ("elsewhere", "cl100k_base"),
    "stranger-b": ("elsewhere", "qwen3.5"),
}  # fmt: skip


def true_tokens(model, text):
    """Return how many tokens a text has for the model that is asked."""
    import toktok

    return toktok.batch_count([text], TRUTHS[model][1], threads=1)[0]


def true_input(model):
    """Return how many tokens the question has: its texts, and what is around each."""
    return sum(true_tokens(model, m["content"]) + 4 for m in QUESTION)


class Cut:
    """A provider that ends a stream of 60 chunks after `at` of them, in one of five ways.

    First it answers whole, once, and counts. `begins` is what it counts at once: True the input.
    """

    def __init__(self, env, how, at, *, model="gpt-4o", kind="English", begins=False):
        """End after `at` chunks."""
        self.env, self.how, self.at, self.model, self.begins = env, how, at, model, begins
        self.taught, cut = KINDS[kind]
        self.chunks = chunks(cut)

    def complete(self, request, _timeout_s):
        """Answer whole."""
        read = sum(true_tokens(self.model, m["content"]) + 4 for m in request.messages)
        wrote = true_tokens(self.model, self.taught)
        return Response(content=self.taught, usage=Usage(input_tokens=read, output_tokens=wrote))

    def stream(self, _request, _timeout_s):
        """Yield chunks, then end."""
        if self.begins:
            start = Usage(input_tokens=true_input(self.model))
            yield start if self.begins is True else self.begins
        for i, piece in enumerate(self.chunks):
            if i == self.at:
                yield from self.end()
                return
            yield piece
        yield from self.end()

    def end(self):
        """End as told."""
        if self.how == "reset":
            raise ConnectionResetError("reset by peer")
        if self.how == "close":
            raise EOFError("peer closed connection without sending complete message body")
        if self.how == "stall":
            self.env.sleep(1e6)
        if self.how == "sse_error":
            raise ControlError("overloaded", error_class="overloaded")
        yield from ()


def cut_run(how, leave, at, store="unused", **which):
    """Read a stream that ends after `at` chunks; leave it one chunk earlier where told how.

    Before it the run has had one whole answer of the same kind.
    """
    env = VirtualEnv(1)
    cut = Cut(env, how, at, **which)
    model = Model(name=cut.model, provider=TRUTHS[cut.model][0], complete=cut.complete,
                  stream=cut.stream)  # fmt: skip
    tower = make_tower(store, budget_usd=None, budget=Budget(run=Limits(calls=9)), models=[model])
    with tower.run("x", env=env, keep=False) as run:
        run.model([QUESTION[0], {"role": "user", "content": "What has become of my payment?"}])
        before = len(run.recorder._costs)
        stream, got = run.stream(QUESTION), []
        try:
            for piece in stream:
                got.append(piece)
                if leave != "read on" and len(got) == max(1, at - 1):
                    break
            if leave == "cancel":
                stream.throw(asyncio.CancelledError())
            elif leave == "break":
                stream.close()
        except (ControlError, OSError, EOFError, asyncio.CancelledError):
            pass
        del stream
        gc.collect(0)
    (charge,) = run.recorder._costs[before:]
    assert charge.estimated
    assert run.budgets.purse.run.reserved == [0] * 5
    used = charge.usage.input_tokens + charge.usage.output_tokens
    assert used > 0
    truth = true_input(cut.model) + true_tokens(cut.model, "".join(got))
    return run, charge, (used - truth) / truth


@pytest.mark.parametrize("leave", ["read on", "break", "cancel", "collected"])
@pytest.mark.parametrize("how", ["close", "reset", "stall", "clean_end", "sse_error"])
def test_a_stream_cut_at_each_chunk_is_charged_once_for_what_came(how, leave):
    """Never 0, never twice, and within 5 % of what the tokenizer says was used."""
    pytest.importorskip("toktok")
    for at in range(1, 61, 1 if leave == "read on" else 7):
        run, charge, off = cut_run(how, leave, at)
        assert abs(off) <= 0.05, at
        assert charge.cost.nanousd > 0
        whole = run.recorder._costs[0].cost.nanousd
        assert run.ledger.spent == whole + charge.cost.nanousd


def test_cut_answers_of_unknown_tokenizers_are_charged_by_what_was_observed():
    """After one whole answer of its kind, in two strange vocabularies: 3 % off, none above 10."""
    pytest.importorskip("toktok")
    means = {}
    for model, kind in itertools.product(("stranger-a", "stranger-b"), KINDS):
        off = [cut_run("reset", "read on", at, model=model, kind=kind)[2]
               for at in range(4, 61, 8)]  # fmt: skip
        means[model, kind] = sum(map(abs, off)) / len(off)
    assert sum(means.values()) / len(means) <= 0.035, means
    assert max(means.values()) <= 0.1, means
    assert sum(mean <= 0.05 for mean in means.values()) >= 10, means


def test_what_a_stream_says_at_its_begin_stands_when_it_is_cut():
    """The input as the provider counted it, the output by what came after its last count."""
    pytest.importorskip("toktok")
    _, charge, _ = cut_run("reset", "read on", 20, model="stranger-b", begins=True)
    assert charge.usage.input_tokens == true_input("stranger-b")
    assert charge.usage.output_tokens > 20
    _, charge, _ = cut_run("reset", "read on", 20, model="gpt-4o", begins=Usage(
        input_tokens=7, output_tokens=400))  # fmt: skip
    came = true_tokens("gpt-4o", "".join(chunks(KINDS["English"][1])[:20]))
    assert (charge.usage.input_tokens, charge.usage.output_tokens) == (7, 400 + came)


# -- estimates -------------------------------------------------------------------------------------


def test_a_bound_is_never_below_the_tokens_of_any_text():
    """Prose, code, digits, Chinese, emoji, control characters: bytes bound tokens."""
    pytest.importorskip("toktok")
    texts = ["plain words", "def f(x):\n\treturn x" * 9, "9" * 300, "订单在哪里" * 20, "🧠🦜" * 30,
             "\x00\x01", "aGVsbG8gd29ybGQ" * 20, " " * 500]  # fmt: skip
    count = counter("gpt-4o")
    for text in texts:
        asked = Asked([{"role": "user", "content": text}])
        assert TokenBook().bound("unheard-of", asked) >= count(text) + 8
        assert TokenBook().bound("gpt-4o", asked) >= count(text) + 8
        assert TokenBook().bound("gpt-4o", asked) <= count(text) + FRAME + MESSAGE


def test_what_a_provider_counted_is_the_bound_of_the_same_beginning():
    """After an answer only the new messages are unknown; another beginning knows nothing."""
    book, usage = TokenBook(), Usage(input_tokens=50, output_tokens=10)
    first = Asked([{"role": "user", "content": "x" * 400}], ("a",))
    book.observed("m", first, usage, "an answer of some words")
    more = Asked([*first.messages, {"role": "user", "content": "y"}], ("a", "b"))
    assert 50 < book.bound("m", more) < 50 + 60
    other = Asked([*first.messages, {"role": "user", "content": "y"}], ("c", "b"))
    assert book.bound("m", other) > 400
    assert book.bound("n", more) > 400
    errors = book.errors()
    assert errors["input_error"] > 0.1
    assert errors["output_error"] is not None


def test_pictures_count_as_what_they_may_be_and_not_as_their_bytes():
    """A picture inlined as two megabytes of base64 is no two million tokens."""
    data = "data:image/png;base64," + "A" * 2_000_000
    part = {"type": "image_url", "image_url": {"url": data}}
    asked = Asked([{"role": "user", "content": [{"type": "text", "text": "what?"}, part]}])
    assert 6_000 < TokenBook().bound("m", asked) < 7_000


def test_reading_an_answer_whole_keeps_its_reservation(tmp_path):
    """A stream that obeys costs what it reported, whatever was looked at meanwhile."""
    tower = make_tower(tmp_path, models=[scripted(whole(*["word "] * 100))])
    with tower.run("x") as run:
        pieces, _ = read(run.stream(HELLO, max_tokens=100))
    assert len(pieces) == 100
    assert not run.pack.frame("costs")["estimated"][0]
