"""Recorded errors of real providers and runs get their class and their retryability."""

from __future__ import annotations

import json
import lzma

import pytest

from towerkit.reliability.classify import classify_response
from towerkit.reliability.explain import explain

# The collector's labels in the terms of the taxonomy.
LABELS = {
    "context_length": {"context_too_long"}, "server_error": {"upstream_5xx"},
    "auth": {"auth_failed"}, "permission": {"permission_denied"}, "rate_limit": {"rate_limited"},
    "tool_use_failed": {"tool_args_invalid"}, "content_filter": {"content_filtered"},
    "connection_reset": {"connect_failed", "stream_interrupted"}, "timeout": {"timeout_read"},
    "agent_code_error": {"agent_bug"}, "quota": {"quota_exhausted"},
}  # fmt: skip


def test_the_corpus_gets_its_classes(real_data):
    """At least 99 of 100 rows get their class, and as many their retryability."""
    path = real_data / "errors" / "error_corpus.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    misses, wrong = [], []
    for row in rows:
        got = explain(row["raw"], http_status=row["http_status"], provider=row["provider"])
        if got["class"] not in LABELS.get(row["expected_class"], {row["expected_class"]}):
            misses.append((row["id"], row["expected_class"], got["class"], row["raw"][:120]))
        if row["expected_retryable"] not in {None, got["retryable"]}:
            wrong.append((row["id"], row["expected_retryable"], got["class"]))
    assert len(rows) >= 100
    assert len(misses) <= len(rows) // 100, misses
    assert len(wrong) <= len(rows) // 100, wrong


# Independent of the classifier: what a status means unless the body's words say otherwise.
BY_STATUS = {
    400: "invalid_request", 401: "auth_failed", 403: "permission_denied", 404: "model_not_found",
    429: "rate_limited",
}  # fmt: skip
BY_WORDS = {
    (400, "model_not_found"): "model_not_found",
    (400, "model identifier is invalid"): "model_not_found",
    (400, "tool_use_failed"): "tool_args_invalid",
    (403, "token included in the request is expired"): "auth_failed",
}


def _expected(status, text):
    found = [row for (code, words), row in BY_WORDS.items() if code == status and words in text]
    return found[0] if found else BY_STATUS[status]


def test_every_recorded_http_error_gets_its_class(real_data):
    """Each recorded answer of 400 or more is classified as its status and code say."""
    misses, seen = [], 0
    for path in sorted((real_data / "cassettes").glob("*.jsonl.xz")):
        with lzma.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                if row["status"] < 400:
                    continue
                seen += 1
                body = row["response"]
                got = classify_response(
                    status=row["status"], headers=row["response_headers"], body=body
                )
                expected = _expected(row["status"], json.dumps(body))
                if got.error_class != expected:
                    misses.append((row["id"], row["status"], expected, got.error_class, body))
    if seen == 0:
        pytest.skip("no recorded answer here is an error")
    assert misses == []


def test_a_recorded_good_answer_is_no_failure(real_data):
    """Answers below 400 are fine, but for content that a provider refused with a 200."""
    named, seen = [], 0
    for path in sorted((real_data / "cassettes").glob("*.jsonl.xz")):
        with lzma.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                if row["status"] >= 400 or not isinstance(row["response"], dict):
                    continue
                seen += 1
                got = classify_response(status=row["status"], body=row["response"])
                if got is not None and "content_filter" not in json.dumps(row["response"]):
                    named.append((row["id"], row["provider"], got.error_class))
    assert seen > 100
    assert named == []
