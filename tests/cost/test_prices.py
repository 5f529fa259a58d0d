"""The price book: three layers, dated, exact; what is unknown is null and says why."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from towerkit.core.errors import UsageError
from towerkit.core.types import Usage
from towerkit.cost.answers import read_answer
from towerkit.cost.frames import price_frame
from towerkit.cost.line import price_answer, price_line
from towerkit.cost.prices import PriceBook, book_with, default_book, price
from towerkit.cost.usage import TokenUsage

BOOK = default_book()


def at(day):
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) * 10**9


NOW = at("2026-11-01")
SMALL = TokenUsage(input_tokens=1000, output_tokens=100)


def cost(usage, model, provider, *, when=NOW, book=BOOK, **more):
    quote = book.quote(usage, model=model, provider=provider, at_unix_ns=when, **more)
    return None if quote.price is None else quote.price.nanousd


def test_a_price_holds_from_its_day_on():
    """The same tokens before and after the provider cut the price."""
    days = ("2026-08-20", "2026-08-21")
    assert [cost(SMALL, "gpt-5.6-sol", "openai", when=at(d)) for d in days] == [
        8_000_000,
        6_000_000,
    ]


def test_cache_lifetimes_tiers_and_searches_have_prices_of_their_own():
    """Writes kept an hour cost more, a long prompt more a token, a search by the request."""
    kept = {n: TokenUsage(input_tokens=1000, output_tokens=0, cache_write_tokens=1000, **{n: 1000})
            for n in ("cache_write_5m_tokens", "cache_write_1h_tokens")}  # fmt: skip
    claude = {n: cost(u, "claude-sonnet-4-5", "anthropic") for n, u in kept.items()}
    assert list(claude.values()) == [3_750_000, 6_000_000]
    short, long = (cost(TokenUsage(input_tokens=n, output_tokens=0), "gemini-2.5-pro", "google")
                   for n in (200_000, 200_001))  # fmt: skip
    assert (short, long) == (200_000 * 1250, 200_001 * 2500)
    searched = TokenUsage(input_tokens=0, output_tokens=0, web_searches=3)
    assert cost(searched, "claude-sonnet-4-5", "anthropic") == 30_000_000


def test_what_another_maker_bills_by_the_request_is_not_borrowed_with_its_tokens():
    """Azure serves Claude at Anthropic's token prices; a search there has no known price."""
    usage = TokenUsage(input_tokens=1000, output_tokens=0, web_searches=1)
    quote = BOOK.quote(usage, model="claude-sonnet-4-5", provider="azure", at_unix_ns=NOW)
    assert quote.price.nanousd == 3_000_000
    assert "web searches" in quote.why


def test_a_tier_of_service_changes_the_price():
    """The answer says which it was."""
    tiers = [cost(SMALL, "gpt-5-mini", "openai", context=c)
             for c in ({}, {"service_tier": "flex"}, {"service_tier": "priority"})]  # fmt: skip
    assert tiers[1] < tiers[0] < tiers[2]


@pytest.mark.parametrize(
    ("model", "provider", "why"),
    [("no-such", "openai", "no price is known for the model no-such of openai"),
     ("gpt-4o", "my proxy", "of my proxy"), ("qwen-3-coder-480b", "cerebras", "without a price"),
     ("no-such", "simulated", "simulated"), (None, "openai", "no model"),
     ("whisper-large-v3", "groq", "not priced by plain tokens")],
)  # fmt: skip
def test_an_unknown_price_is_null_and_says_why(model, provider, why):
    """Never 0: a model nobody knows, a stranger's, one listed without a price, one by the hour."""
    quote = BOOK.quote(SMALL, model=model, provider=provider, at_unix_ns=NOW)
    assert quote.price is None
    assert why in quote.why


def test_half_a_usage_has_no_price():
    """A missing sum is not 0."""
    assert cost(TokenUsage(input_tokens=5), "gpt-4o", "openai") is None
    assert price(Usage(output_tokens=5), model="gpt-4o", provider="openai", at_unix_ns=NOW) is None


NAMES = ["azure_openai", "azure.ai.openai", "aws.bedrock", "gcp.vertex_ai", "acme"]


@pytest.mark.parametrize("provider", NAMES)
def test_providers_are_found_under_their_other_names(provider):
    """OpenTelemetry's names and those of recordings."""
    model = {"aws.bedrock": "anthropic.claude-3-5-sonnet-20240620-v1:0",
             "gcp.vertex_ai": "gemini-2.5-pro"}.get(provider, "gpt-4o")  # fmt: skip
    assert (cost(SMALL, model, provider) is not None) == (provider != "acme")


MINE = """
[[price]]
provider = "openai"
model = "gpt-4o*"
from = 2026-01-01
input_mtok = "1"
output_mtok = "2"
tiers = [{ above = 1000, input_mtok = "3" }]

[[price]]
provider = "openai"
model = "gpt-4o"
from = 2026-06-01
input_mtok = "0"
output_mtok = "0"

[[price]]
provider = "acme"
model = "own"
from = 2026-01-01
input_mtok = "0.0005"
output_mtok = 4
"""


def test_a_file_of_yours_is_above_the_book(tmp_path, monkeypatch):
    """By day and by the closer name; before its days the book holds. The file is only read."""
    file = tmp_path / "mine.toml"
    file.write_text(MINE)
    before = file.stat()
    monkeypatch.setenv("TOWERKIT_PRICES", str(file))
    mine = default_book.__wrapped__()
    for book in (mine, book_with(file)):
        assert cost(SMALL, "gpt-4o-2024-08-06", "openai", book=book) == 1_200_000
        over = TokenUsage(input_tokens=1001, output_tokens=0)
        assert cost(over, "gpt-4o-2024-08-06", "openai", book=book) == 3_003_000
        assert cost(SMALL, "gpt-4o", "openai", book=book) == 0  # said to be 0: known
        old = cost(SMALL, "gpt-4o", "openai", book=book, when=at("2025-12-31"))
        assert old == cost(SMALL, "gpt-4o", "openai", when=at("2025-12-31"))
        assert cost(SMALL, "own", "acme", book=book) == 400_500
    assert "mine.toml" in mine.version
    assert file.stat() == before


def test_half_a_nano_dollar_goes_to_the_even_one(tmp_path):
    """For a charge and for a frame of them."""
    file = tmp_path / "mine.toml"
    file.write_text(MINE)
    book, counts = book_with(file), [1, 2, 3, 4, 5]
    rows = {"provider": "acme", "model": "own", "at_unix_ns": NOW, "output_tokens": 0}
    frame = pl.DataFrame([rows | {"input_tokens": n} for n in counts], schema=SCHEMA)
    got = price_frame(frame, book=book)["priced_nanousd"].to_list()
    alone = [cost(Usage(input_tokens=n, output_tokens=0), "own", "acme", book=book) for n in counts]
    assert got == alone == [0, 1, 2, 2, 2]


BAD = [
    ("[[price]]\nprovider='a'", "expected provider, model and from"),
    ("[[price]]\nprovider='a'\nmodel='b'\nfrom=2026-01-01", "expected a price"),
    ("[[price]]\nprovider='a'\nmodel='b'\nfrom=2026-01-01\ninput='1'", "unknown input"),
    ("[[price]]\nprovider='a'\nmodel='b'\nfrom=2026-01-01\ninput_mtok=1.5", "dollars as a text"),
    ("[[price]]\nprovider='a'\nmodel='b'\nfrom=2026-01-01\ninput_mtok='-1'", "dollars as a text"),
    ("[[price]]\nprovider='a'\nmodel='b'\nfrom=2026-01-01\ninput_mtok='NaN'", "dollars as a text"),
    ("[[price]]\nprovider='a'\nmodel='b'\nfrom=2026-01-01\ninput_mtok='1'\ntiers=[{above='x'}]",
     "expected tiers"),
    ("price = 3", "[[price]] tables"), ("[[price", "TOML"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "says"), BAD)
def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path, text, says):
    """The file, the entry, what was expected."""
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=r"mine\.toml") as caught:
        PriceBook((file,))
    assert says in str(caught.value)
    with pytest.raises(UsageError, match="cannot read"):
        PriceBook((tmp_path / "none.toml",))


def test_the_time_is_the_lines_else_the_answers_else_now():
    """In this order."""
    body = {"created": 1_750_000_000, "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
    known = {"provider": "openai", "model": "gpt-4o", "book": BOOK, "now_unix_ns": NOW}
    assert price_answer(body, at_unix_ns=at("2026-01-01"), **known).at_unix_ns == at("2026-01-01")
    assert price_answer(body, **known).at_unix_ns == 1_750_000_000 * 10**9
    assert price_answer({"usage": body["usage"]}, **known).at_unix_ns == NOW


def test_the_model_of_the_answer_stands_in_for_a_deployments_name():
    """Azure's deployments are named by their owners."""
    body = {"model": "gpt-4o-2024-08-06", "usage": {"prompt_tokens": 1000, "completion_tokens": 0}}
    priced = price_answer(body, provider="azure", model="my-deployment", book=BOOK, now_unix_ns=NOW)
    assert priced.quote.price.nanousd == 2_500_000


def test_what_the_provider_says_it_billed_is_shown_beside():
    """The book's price is the answer; a difference is said."""
    body = {"usage": {"prompt_tokens": 900, "completion_tokens": 69, "cost": 0.0160614}}
    said = price_answer(body, provider="openrouter", model="openai/gpt-4o-mini", book=BOOK,
                        now_unix_ns=NOW).as_json()  # fmt: skip
    assert (said["cost_nanousd"], said["billed_nanousd"]) == (176_400, 16_061_400)
    assert said["why"] == "the provider says it billed 0.0160614 USD"
    own = {"provider": "openrouter", "model": "a/new-one", "book": BOOK, "now_unix_ns": NOW}
    new = price_answer(body, **own).as_json()
    assert (new["cost_nanousd"], new["price_ref"]) == (16_061_400, "billed by the provider")
    assert "no price is known" in new["why"]
    body["usage"]["is_byok"] = True
    assert price_answer(body, **own).as_json()["cost_nanousd"] is None


ODD = [b"x", b"[]", b"{}", b'{"body": 1, "at": "soon"}', b"[" * 99_999, b'{"body": 1, "at": -5}',
       b'{"body": 1, "model": 7}', b""]  # fmt: skip


@pytest.mark.parametrize("line", ODD)
def test_a_line_that_is_not_as_expected_says_what_is(line):
    """One sentence, and the line counts as bad."""
    said, good = price_line(line, book=BOOK, now_unix_ns=NOW)
    assert not good
    assert said["error"].startswith('expected {"provider"')


MODELS = [
    ("openai", "gpt-4o"), ("openai", "gpt-5.6-sol"), ("google", "gemini-2.5-pro"), (None, "gpt-4o"),
    ("anthropic", "claude-sonnet-4-5"), ("deepseek", "deepseek-v4-flash"), ("acme", "gpt-4o"),
    ("openrouter", "google/gemini-2.5-flash"), ("simulated", "sim-clerk-large"), ("cache", "any"),
    ("simulated", "none"), ("openai", None), ("perplexity", "sonar"), ("groq", "whisper-large-v3"),
]  # fmt: skip
COUNT = st.none() | st.integers(0, 400_000)
CHARGE = st.fixed_dictionaries({
    "of": st.sampled_from(MODELS), "input_tokens": COUNT, "output_tokens": COUNT,
    "cache_read_tokens": COUNT, "cache_write_tokens": COUNT, "reasoning_tokens": COUNT,
    "at_unix_ns": st.sampled_from([at("2026-08-20"), at("2026-11-01"), at("2026-11-01T02:10")]),
})  # fmt: skip
SCHEMA = {"provider": pl.String, "model": pl.String, "at_unix_ns": pl.Int64} | {
    f"{c}_tokens": pl.Int64 for c in ("input", "output", "cache_read", "cache_write", "reasoning")
}


@settings(max_examples=60, deadline=None)
@given(st.lists(CHARGE, max_size=30), st.none() | st.just(at("2026-09-01")))
def test_a_frame_is_priced_like_its_charges(charges, moment):
    """To the nano-dollar, at each charge's own time or at one; unknown where that is."""
    rows = [c | {"provider": c["of"][0], "model": c["of"][1]} for c in charges]
    frame = pl.DataFrame([{k: r[k] for k in SCHEMA} for r in rows], schema=SCHEMA)
    got = price_frame(frame, book=BOOK, at_unix_ns=moment)
    assert got.height == len(rows)
    for row, made in zip(rows, got.to_dicts(), strict=True):
        counts = {k: v for k, v in row.items() if k.endswith("_tokens")}
        moment_ = moment or row["at_unix_ns"]
        # Of all classes, it is genai-prices that adds up; of the five, the rates of the model.
        quote = BOOK.quote(TokenUsage(**counts), model=row["model"], provider=row["provider"],
                           at_unix_ns=moment_)  # fmt: skip
        alone = BOOK.quote(Usage(**counts), model=row["model"], provider=row["provider"],
                           at_unix_ns=moment_)  # fmt: skip
        assert alone == quote
        expected = None if quote.price is None else quote.price.nanousd
        assert made["priced_nanousd"] == expected, (row, quote)
        assert (made["priced_why"] is None) == (expected is not None)
        assert made["priced_ref"] == (None if quote.price is None else quote.price.ref)


def test_every_entry_of_the_projects_own_prices_says_where_it_is_from():
    """A price without its source is a guess."""
    import tomllib

    from towerkit.core.assets import asset

    with asset("data", "prices.toml").open("rb") as file:
        entries = tomllib.load(file)["price"]
    assert all(e["source"] for e in entries)
    assert all(Decimal(e.get("input_mtok", "0")) < 100 for e in entries)


def test_what_a_run_records_is_priced_like_the_answer_it_is_of():
    """Lifetimes, searches and the like go with the five classes; without them nothing is added."""
    body = {"usage": {"input_tokens": 10, "output_tokens": 7, "cache_creation_input_tokens": 30,
                      "cache_read_input_tokens": 0,
                      "cache_creation": {"ephemeral_1h_input_tokens": 30},
                      "server_tool_use": {"web_search_requests": 2}}}  # fmt: skip
    usage = read_answer(body).usage
    got = price(usage.plain, model="claude-sonnet-4-5", provider="anthropic", at_unix_ns=NOW)
    assert got.nanousd == 10 * 3000 + 7 * 15000 + 30 * 6000 + 2 * 10_000_000
    kept = msgspec.convert(msgspec.to_builtins(usage.plain), Usage)
    assert kept == usage.plain
    assert set(msgspec.to_builtins(SMALL.plain)) == set(Usage.__struct_fields__) - {"details"}
