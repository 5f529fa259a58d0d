"""LangGraph under the tower: `under_tower(tower, builder).compile()`.

Rule: a node is a step of the open run, and its failure is classified, recorded and raised as it
was. Interrupts, commands to a parent graph and drains are LangGraph's control flow, not failures.
There is one retry owner: a node is run again by the tower, and only if you say that this is
harmless.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

from towerkit.core.errors import UsageError
from towerkit.reliability.classify import Failure, classify
from towerkit.reliability.probe import get, kind_of, mro_names
from towerkit.runtime.guard import Control
from towerkit.runtime.native_calls import FunctionCall, Passed, open_run, tool_names, unwrapped
from towerkit.runtime.steps import adrive, drive

if TYPE_CHECKING:
    from towerkit.runtime.run import Run
    from towerkit.runtime.tower import Tower

NodeT = TypeVar("NodeT")
GraphT = TypeVar("GraphT")

_UNCUT_S = 1e9  # a node is as long as what it calls: the run's deadline bounds it


def guard_node(
    tower: Tower, node: NodeT, *, name: str | None = None, idempotent: bool = False
) -> NodeT:
    """Return a node (a function or a runnable) that is a step of the tower's open run.

    With `idempotent=True` a failed node is run again, by the class of its error, unless a guarded
    call inside it has failed: that has been retried already. Give `add_node` no `retry_policy`
    then. Raises `UsageError` for a generator.
    """
    called = name or _name_of(node)
    if hasattr(type(node), "ainvoke"):
        return _runnable()(tower, node, called, idempotent=idempotent)  # type: ignore[no-any-return]
    if not callable(node):
        raise UsageError(f"expected a function or a runnable as a node, got {kind_of(node)}")
    if inspect.isgeneratorfunction(node) or inspect.isasyncgenfunction(node):
        raise UsageError(f"cannot guard the generator {called}: return the node's update instead")
    fn: Any = node
    if inspect.iscoroutinefunction(node) or inspect.iscoroutinefunction(type(node).__call__):

        @functools.wraps(fn)
        async def anode(*args: Any, **kwargs: Any) -> Any:
            guard = _Node(tower, called, args[0] if args else kwargs, idempotent=idempotent)
            return await guard.arun(functools.partial(fn, *args, **kwargs))

        return anode  # type: ignore[return-value]

    @functools.wraps(fn)
    def snode(*args: Any, **kwargs: Any) -> Any:
        guard = _Node(tower, called, args[0] if args else kwargs, idempotent=idempotent)
        return guard.run(functools.partial(fn, *args, **kwargs))

    return snode  # type: ignore[return-value]


def under_tower(tower: Tower, graph: GraphT, *, idempotent: Collection[str] = ()) -> GraphT:
    """Return a copy of a `StateGraph` whose nodes are all guarded; compile that.

    `idempotent` names the nodes that the tower may run again. Raises `UsageError` for a graph that
    is compiled already, a name that is no node, and a node with a `retry_policy` that is not in
    `idempotent`: with two retry owners the retries multiply.
    """
    harmless = tool_names(idempotent)
    nodes = get(graph, "nodes")
    if not isinstance(nodes, dict) or not callable(get(graph, "compile")):
        raise UsageError(
            f"expected a langgraph StateGraph that is not compiled yet, got {kind_of(graph)}"
        )
    if unknown := sorted(harmless - set(nodes)):
        raise UsageError(f"idempotent names {unknown}, which are no nodes; known: {sorted(nodes)}")
    default = get(get(graph, "_node_defaults"), "retry_policy")
    for name, spec in nodes.items():
        if (spec.retry_policy or default) and name not in harmless:
            raise UsageError(
                f"node {name!r} has a retry_policy of LangGraph, and the tower retries too: name "
                "the node in idempotent and the tower takes over, or remove the policy"
            )
    return cast("GraphT", _guarded_copy(tower, graph, harmless))


def _guarded_copy(tower: Tower, graph: Any, harmless: frozenset[str]) -> Any:
    made = copy.copy(graph)
    for name, value in vars(graph).items():
        if isinstance(value, dict | set | list):  # what add_node and add_edge write to
            setattr(made, name, copy.copy(value))
    node_of = _runnable()
    for name, spec in graph.nodes.items():
        made.nodes[name] = dataclasses.replace(
            spec,
            runnable=node_of(tower, spec.runnable, name, idempotent=name in harmless),
            retry_policy=(),  # not None: the builder's default would be put in its place
        )
    return made


class _Node:
    """One execution of a node: a step, and in it a guarded call where the node may run again."""

    def __init__(self, tower: Tower, name: str, state: Any, *, idempotent: bool) -> None:
        self._tower, self._name, self._state = tower, name, state
        self._idempotent = idempotent

    def run(self, call: Callable[[], Any]) -> Any:
        """Run the node and return its update."""
        with open_run(self._tower, self._name, self._state) as (run, done):
            with self._step(run) as end:
                if self._idempotent:
                    steps = self._call(run, call).steps(idempotent=True)
                    end.value = unwrapped(drive(steps, run.executor, run.env))
                else:
                    end.value = call()
            done(end.value)
        return unwrapped(end.value)

    async def arun(self, call: Callable[[], Any]) -> Any:
        """Do what `run` does, awaiting."""
        with open_run(self._tower, self._name, self._state) as (run, done):
            with self._step(run) as end:
                if self._idempotent:
                    steps = self._call(run, call).steps(idempotent=True)
                    end.value = unwrapped(await adrive(steps, run.executor, run.env))
                else:
                    end.value = await call()
            done(end.value)
        return unwrapped(end.value)

    @contextmanager
    def _step(self, run: Run) -> Iterator[_End]:
        """Open the node's step. Control flow is no failure of the run, and mostly none of the step.

        Only a node that waits for a human is shown as such (`permission_needed`).
        """
        end = _End()
        try:
            with run.step(self._name):
                try:
                    yield end
                except Exception as error:
                    if not _bubbles(error) or _waits(error):
                        raise
                    end.value = Passed(error)
        except Exception as error:
            if not _waits(error):
                raise
            end.value = Passed(error)

    def _call(self, run: Run, call: Callable[[], Any]) -> _NodeCall:
        shown = {"state": self._state}
        return _NodeCall(
            run, call, name=self._name, shown=shown, cut_s=_UNCUT_S, passes=_is_decided
        )


class _End:
    """What a node came to: its update, or the exception that was passed through."""

    value: Any = None


class _NodeCall(FunctionCall):
    """A node that may be run again. Its error can be of any class: nodes call models and tools."""

    def judge(self, error: BaseException, now_unix_s: float) -> Failure:
        """Return which row of the taxonomy the error is; what none explains is a tool's failure."""
        failure = classify(error, operation="model", now_unix_s=now_unix_s)
        if failure.error_class != "unknown":
            return failure
        return msgspec.structs.replace(failure, error_class="tool_failed", sent=True)


def _is_decided(error: Exception) -> bool:
    """Say whether a node's exception is control flow, or a guarded call's that had its retries."""
    return _bubbles(error) or isinstance(get(error, "tower"), Control)


def _bubbles(error: Exception) -> bool:
    return "GraphBubbleUp" in mro_names(error)


def _waits(error: Exception) -> bool:
    return "GraphInterrupt" in mro_names(error)


def _name_of(node: Any) -> str:
    named = get(node, "name") or get(node, "__name__")
    return named if isinstance(named, str) else kind_of(node)


@functools.cache
def _runnable() -> Any:
    """Return the class of guarded runnables; raise `UsageError` where langgraph is missing."""
    try:
        from langchain_core.runnables import Runnable, RunnableLambda  # noqa: PLC0415
    except ImportError:
        raise UsageError(
            "this adapter needs the langgraph package: pip install langgraph"
        ) from None

    class GuardedNode(RunnableLambda[Any, Any]):
        """A runnable in a step of its own.

        It is a RunnableLambda so that LangGraph looks through it for subgraphs (`deps`), and passes
        every call on, so that nothing is traced twice.
        """

        def __init__(self, tower: Tower, node: Any, name: str, *, idempotent: bool) -> None:
            native = get(node, "afunc")
            # LangGraph asks for `afunc` before it allows a node a time-out.
            awaited = None if isinstance(native, functools.partial) else node.ainvoke
            super().__init__(node.invoke, afunc=awaited, name=name)
            self.guarded, self._tower, self._idempotent = node, tower, idempotent

        @property
        def deps(self) -> list[Any]:
            """What LangGraph looks through for subgraphs."""
            return [self.guarded]

        def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:  # noqa: A002
            """Run the node in a step."""
            guard = _Node(self._tower, str(self.name), input, idempotent=self._idempotent)
            return guard.run(lambda: self.guarded.invoke(input, config, **kwargs))

        async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:  # noqa: A002
            """Run the node in a step, awaiting."""
            guard = _Node(self._tower, str(self.name), input, idempotent=self._idempotent)
            return await guard.arun(lambda: self.guarded.ainvoke(input, config, **kwargs))

        # RunnableLambda streams by calling its function: a node's stream is its one update.
        stream, astream = Runnable.stream, Runnable.astream
        transform, atransform = Runnable.transform, Runnable.atransform

    return GuardedNode
