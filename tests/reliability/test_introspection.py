"""Every exception class of the SDKs an agent uses has a row of the taxonomy.

The classes are found by looking into the installed packages; an instance is made without its
constructor, because a class that arrives from the wire may lack any attribute.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import subprocess
import sys

import pytest

from towerkit.reliability.classify import classify
from towerkit.reliability.taxonomy import TAXONOMY

PACKAGES = ("openai", "anthropic", "google.genai", "litellm", "mcp", "httpx", "httpx2")

# Modules that need what is not installed, start a program or fetch something when imported.
SKIPPED = {"cli", "__main__", "tests", "proxy", "integrations", "types", "resources"}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Keep litellm from fetching its price list when it is imported."""
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")


BASE = "a base or a carrier: its status, its body or its cause decides"
NO_FAILURE = "control flow or a warning, never the outcome of a call"
UNKNOWN = {
    "openai.OpenAIError": BASE,
    "openai.APIError": BASE,
    "openai.APIStatusError": BASE,
    "anthropic.AnthropicError": BASE,
    "anthropic.APIError": BASE,
    "anthropic.APIStatusError": BASE,
    "google.genai.errors.APIError": BASE,
    "google.genai._gaos.errors.genaierror.GenAiError": BASE,
    "google.genai._gaos.errors.genaidefaulterror.GenAiDefaultError": BASE,
    "google.genai._interactions.GeminiNextGenAPIClientError": BASE,
    "google.genai._interactions.APIError": BASE,
    "google.genai._interactions.APIStatusError": BASE,
    "litellm.exceptions.OpenAIError": BASE,
    "httpx.HTTPError": BASE,
    "httpx.RequestError": BASE,
    "httpx.HTTPStatusError": BASE,
    "httpx2.HTTPError": BASE,
    "httpx2.RequestError": BASE,
    "httpx2.HTTPStatusError": BASE,
    "litellm.llms.custom_httpx.http_handler.MaskedHTTPStatusError": BASE,
    "litellm.llms.heroku.chat.transformation.HerokuError": BASE,
    "litellm.proxy._types.ProxyException": BASE,
    "mcp.server.mcpserver.resolve._Pending": NO_FAILURE,
    "httpx2.websockets._api.QueueShutDown": NO_FAILURE,
}


def _load(name):
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit):
        return  # an optional part that needs a package that is not here
    for found in pkgutil.iter_modules(getattr(module, "__path__", [])):
        if found.name not in SKIPPED and not name.startswith("litellm.llms."):
            _load(f"{name}.{found.name}")


def _subclasses(cls):
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)


def exception_classes(package):
    """Return the exception classes a package defines, warnings excepted."""
    _load(package)
    found = {
        f"{cls.__module__}.{cls.__qualname__}": cls
        for cls in _subclasses(BaseException)
        if (cls.__module__ == package or cls.__module__.startswith(f"{package}."))
        and not issubclass(cls, Warning)
    }
    return dict(sorted(found.items()))


def instance(cls):
    """Make an instance as bare as one can be; its class attributes are all it has.

    What a constructor takes as `status_code` is what such an error carries: there, a 503.
    """
    error = cls.__new__(cls)
    parameters = getattr(getattr(cls.__init__, "__code__", None), "co_varnames", ())
    if "status_code" in parameters and not hasattr(error, "status_code"):
        error.status_code = 503
    return error


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("package", PACKAGES)
def test_every_class_of_an_sdk_has_one_row(package):
    """A class without a row fails by its name; so does an exception from the rule gone stale."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    classes = exception_classes(package)
    rows = {name: classify(instance(cls)).error_class for name, cls in classes.items()}
    assert len(rows) >= 20, f"{package}: its exceptions were not found"
    assert set(rows.values()) <= set(TAXONOMY)
    unknown = {name for name, row in rows.items() if row == "unknown"}
    unmapped = sorted(unknown - UNKNOWN.keys())
    assert unmapped == [], "map these in towerkit/reliability/exceptions.py, or say why not here"
    stale = sorted(n for n in UNKNOWN if n in rows and n not in unknown)
    assert stale == [], "these have a row now: take them out of UNKNOWN"


STATUS_ROWS = {
    400: "invalid_request", 401: "auth_failed", 403: "permission_denied", 404: "model_not_found",
    408: "timeout_read", 409: "conflict", 413: "request_too_large", 422: "invalid_request",
    429: "rate_limited", 500: "upstream_5xx", 501: "not_implemented", 502: "upstream_5xx",
    503: "overloaded", 504: "upstream_5xx", 529: "overloaded",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("package", ["openai", "anthropic"])
@pytest.mark.parametrize("status", STATUS_ROWS)
def test_what_an_sdk_raises_for_a_status_has_its_row(package, status):
    """The exception a client makes of a status gets that status's row."""
    sdk, http = importlib.import_module(package), importlib.import_module("httpx2")
    client = (sdk.OpenAI if package == "openai" else sdk.Anthropic)(api_key="k", max_retries=0)
    request = http.Request("POST", "https://provider.example/v1")
    error = client._make_status_error_from_response(
        http.Response(status, json={"error": {"message": "m"}}, request=request)
    )
    assert classify(error).error_class == STATUS_ROWS[status]


@pytest.mark.filterwarnings("ignore")
def test_google_and_litellm_errors_carry_their_code():
    """Instances made by their own constructors are classified by what they carry."""
    genai = importlib.import_module("google.genai.errors")
    body = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "slow",
                      "details": [{"retryDelay": "37s"}]}}  # fmt: skip
    failure = classify(genai.ClientError(429, body))
    assert (failure.error_class, failure.retry_after_s) == ("rate_limited", 37.0)
    lite = importlib.import_module("litellm.exceptions")
    made = {
        lite.RateLimitError("m", "p", "m"): "rate_limited",
        lite.Timeout("m", "m", "p"): "timeout_read",
        lite.APIConnectionError("m", "p", "m"): "connect_failed",
        lite.ContextWindowExceededError("m", "m", "p"): "context_too_long",
        lite.ContentPolicyViolationError("m", "m", "p"): "content_filtered",
        lite.BudgetExceededError(2.0, 1.0): "budget_exceeded",
        lite.MidStreamFallbackError("m", "m", "p"): "stream_interrupted",
        lite.GuardrailRaisedException("g", "m"): "guardrail_blocked",
    }
    assert {type(e).__name__: classify(e).error_class for e in made} == {
        type(e).__name__: name for e, name in made.items()
    }


def test_classification_imports_no_sdk():
    """Duck typing needs no SDK: importing the classifier loads none."""
    code = (
        "import sys, towerkit.reliability.explain\n"
        f"print([m for m in {PACKAGES!r} if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert out.stdout.strip() == "[]"
