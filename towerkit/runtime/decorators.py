"""One line puts a function under the tower: `@tower.tool`, `@tower.model`, `@tower.agent`.

Rule: what is decorated keeps its signature, its answer and its exceptions. Inside an open run of
the tower a call belongs to that run; outside any it becomes a run of its own.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar, cast

from towerkit.core.errors import UsageError
from towerkit.core.types import Request
from towerkit.reliability.classify import Failure
from towerkit.reliability.probe import kind_of
from towerkit.runtime.code import code_of
from towerkit.runtime.native import count_at, plain
from towerkit.runtime.native_calls import (
    FunctionCall,
    NativeModelCall,
    finish,
    native_model,
    open_run,
    request_digest,
)
from towerkit.runtime.steps import Steps, adrive, drive

if TYPE_CHECKING:
    from towerkit.runtime.run import Run
    from towerkit.runtime.tower import Tower

P = ParamSpec("P")
R = TypeVar("R")

OPENS_A_RUN = "__towerkit_agent__"
"""The attribute of a decorated agent: what its runs are called. Their task is its arguments."""

_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


class _Given(NamedTuple):
    """One call of a decorated function: how to make it, and what evidence says of it."""

    call: Callable[[], Any]
    shown: dict[str, Any]
    misfit: bool  # the arguments do not fit the signature


def tool(
    tower: Tower, *, idempotent: bool, name: str | None, timeout_s: float | None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return the decorator of `Tower.tool`."""

    def decorate(fn: Callable[P, R]) -> Callable[P, R]:
        called = name or _name_of(fn)

        def steps(run: Run, given: _Given) -> Steps:
            call = _DecoratedTool(
                run, given.call, name=called, shown=given.shown, timeout_s=timeout_s
            )
            call.misfit = given.misfit
            return call.steps(idempotent=idempotent)

        return _guarded(tower, fn, called, steps, decorator="tool")

    return decorate


def model(
    tower: Tower, *, name: str, provider: str, timeout_s: float | None, max_tokens: int
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return the decorator of `Tower.model`."""

    def decorate(fn: Callable[P, R]) -> Callable[P, R]:
        tier = native_model(name, provider)

        def steps(run: Run, given: _Given) -> Steps:
            shown, _ = plain(given.shown)
            request = Request(
                messages=(shown,), max_tokens=count_at(given.shown, *_LIMITS) or max_tokens
            )
            call = NativeModelCall(
                run, given.call, tier, request, request_digest(run, name, shown),
                timeout_s=timeout_s,
            )  # fmt: skip
            return call.steps()

        return _guarded(tower, fn, name, steps, decorator="model")

    return decorate


def agent(
    tower: Tower, name: str, *, tenant: str | Callable[..., str | None] | None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return the decorator of `Tower.agent`."""

    def opened(given: _Given, code: Mapping[str, Any], args: Any, kwargs: Any) -> Run:
        whose = tenant(*args, **kwargs) if callable(tenant) else tenant
        return tower.run(name, task=plain(given.shown)[0], identity=code, tenant=whose)

    def decorate(fn: Callable[P, R]) -> Callable[P, R]:
        given_by = _binder(fn, decorator="agent")
        code = code_of(inspect.unwrap(fn))
        if _is_async(fn):

            @functools.wraps(fn)
            async def arun(*args: P.args, **kwargs: P.kwargs) -> Any:
                given = given_by(args, kwargs)
                with opened(given, code, args, kwargs) as run:
                    result = await cast("Coroutine[Any, Any, Any]", given.call())
                    finish(run, result)
                    return result

            arun.__dict__[OPENS_A_RUN] = name
            return cast("Callable[P, R]", arun)

        @functools.wraps(fn)
        def run_it(*args: P.args, **kwargs: P.kwargs) -> R:
            given = given_by(args, kwargs)
            with opened(given, code, args, kwargs) as run:
                result: R = given.call()
                finish(run, result)
                return result

        run_it.__dict__[OPENS_A_RUN] = name
        return run_it

    return decorate


class _DecoratedTool(FunctionCall):
    """A decorated tool. Arguments that do not fit are the caller's mistake, not the tool's."""

    misfit = False

    def judge(self, error: BaseException, now_unix_s: float) -> Failure:
        """Return which row of the taxonomy the error is."""
        if self.misfit and isinstance(error, TypeError):
            return Failure(error_class="tool_args_invalid", error_type=kind_of(error), sent=False)
        return super().judge(error, now_unix_s)


def _guarded(
    tower: Tower, fn: Callable[P, R], name: str, steps: Callable[[Run, _Given], Steps], *,
    decorator: str,
) -> Callable[P, R]:  # fmt: skip
    given_by = _binder(fn, decorator=decorator)
    if _is_async(fn):

        @functools.wraps(fn)
        async def acall(*args: P.args, **kwargs: P.kwargs) -> Any:
            given = given_by(args, kwargs)
            with open_run(tower, name, given.shown) as (run, done):
                answer = await adrive(steps(run, given), run.executor, run.env)
                done(answer)
                return answer

        return cast("Callable[P, R]", acall)

    @functools.wraps(fn)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given = given_by(args, kwargs)
        with open_run(tower, name, given.shown) as (run, done):
            answer: R = drive(steps(run, given), run.executor, run.env)
            done(answer)
            return answer

    return call


def _binder(
    fn: Callable[..., Any], *, decorator: str
) -> Callable[[tuple[Any, ...], dict[str, Any]], _Given]:
    """Return what binds the arguments of a call to names; refuse what cannot be decorated."""
    here = f"@tower.{decorator}"
    if isinstance(fn, staticmethod | classmethod):
        raise UsageError(
            f"expected a function, got a {kind_of(fn)}: put {here} below @{kind_of(fn)}"
        )
    if isinstance(fn, type) or not callable(fn):
        raise UsageError(f"{here} expects a function, got {kind_of(fn)}")
    bodies = _bodies(inspect.unwrap(fn))
    if any(inspect.isgeneratorfunction(b) or inspect.isasyncgenfunction(b) for b in bodies):
        raise UsageError(
            f"{here} cannot guard the generator {_name_of(fn)}: an answer in pieces goes through "
            "run.stream or run.astream, or the function returns the whole of it"
        )
    signature = _signature(fn)
    first = next(iter(signature.parameters), "")
    owner = first if first in {"self", "cls"} else None

    def bind(args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Given:
        call = functools.partial(fn, *args, **kwargs)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return _Given(call, {"args": args, "kwargs": kwargs}, misfit=True)
        return _Given(call, _named(signature, bound.arguments, owner), misfit=False)

    return bind


def _signature(fn: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(fn)
    except ValueError:  # some built-in functions do not tell theirs
        return inspect.signature(lambda *args, **kwargs: (args, kwargs))


def _named(
    signature: inspect.Signature, arguments: Mapping[str, Any], owner: str | None
) -> dict[str, Any]:
    """Return arguments by name, those of `**kwargs` among them; not the object a method is of."""
    named = {name: value for name, value in arguments.items() if name != owner}
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD and name in named:
            named.update({k: v for k, v in named.pop(name).items() if k not in named})
    return named


def _is_async(fn: Callable[..., Any]) -> bool:
    return any(inspect.iscoroutinefunction(body) for body in _bodies(fn))


def _bodies(fn: Callable[..., Any]) -> tuple[Any, Any]:
    """Return what may hold the code: the function, or the method by which an object is called."""
    return fn, type(fn).__call__


def _name_of(fn: Callable[..., Any]) -> str:
    return str(getattr(fn, "__name__", None) or kind_of(fn))
