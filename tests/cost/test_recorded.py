"""What others recorded, where it is present: every block is accounted, every price explained."""

from __future__ import annotations

import pytest

from tests.cost import recorded
from towerkit.cost.prices import default_book


def test_every_recorded_body_is_priced_as_expected(real_data):
    """To the nano-dollar; what is not has its reason in the table."""
    if not (real_data / "prices").is_dir():
        pytest.skip("the recorded prices are not here")
    asked, missed = recorded.price_misses(real_data, default_book())
    assert asked > 1000
    assert set(missed) <= set(recorded.EXPLAINED)
    assert sum(missed.values()) < asked / 200


def test_every_recorded_answer_with_usage_is_accounted(real_data):
    """Streams too. One that names half of its counts is read to that half, and says which."""
    if not (real_data / "cassettes").is_dir():
        pytest.skip("the recorded answers are not here")
    found = recorded.account(real_data)
    assert found["block", "whole"] > 500
    assert found["block", "none"] == 0
    assert found["block", "half"] < 10


def test_recorded_answers_are_estimated_within_5_percent(real_data):
    """In the mean, for the large providers: also those whose tokenizer is not here."""
    if not (real_data / "cassettes").is_dir():
        pytest.skip("the recorded answers are not here")
    pytest.importorskip("toktok")
    found = recorded.estimates(real_data)
    assert found["openai"].answers > 40
    for provider in ("openai", "anthropic", "gemini", "groq"):
        assert found[provider].fresh <= 0.05, found
        assert found[provider].learnt <= 0.05, found
