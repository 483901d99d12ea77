"""Every rule: the share of its bytes' stream that it reaches, and its peers' times, `python -m bench.peers --rules`.

Each rule of the registry steps a matrix of 2500 × 4000 float32 in turns with a stream (bench/stream.c) that makes the
same passes over as many arrays: what a rule's functions read and return says which. It then takes turns with each
package that tests/golden compares it with and this can time, by the arguments of the plainest row there: over the same
matrix, and over 1000 tensors of 64. torch's own rules have no fused form but for SGD, Adagrad, Adam and AdamW, and run
as their default and as foreach, where they have that; optax' run jitted, with donated buffers. Rules of matrices step
one of 500 × 500 and 1000 of 8 × 8.
"""

from __future__ import annotations

import ast
import copy
import ctypes
import inspect
import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastupdate as fu
from bench import machine
from bench.contestants import STREAM_FACTOR, Contestant, library
from bench.measuring import Protocol, Ratio, take_turns
from bench.tables import cells_of_rule
from bench.workloads import WORKLOADS, Workload
from fastupdate import rules
from fastupdate.engines import choose

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import golden
import peers
from golden.peers import Optax, Torch

MATRIX = Workload("matrix", "a matrix of 2500 × 4000", ((2500, 4000),))
SMALL = WORKLOADS["1kx64"]
SQUARE = Workload("square", "a matrix of 500 × 500", ((500, 500),))  # for rules that multiply matrices
SMALL_MATRICES = Workload("matrices", "1000 matrices of 8 × 8", ((8, 8),) * 1000)  # for rules of matrices


class Pass(NamedTuple):
    """One pass over memory: the arrays that it reads, by name, and those of them that it writes."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]


def passes_of(optimizer: fu.Optimizer) -> list[Pass]:
    """What a step of the rule cannot do without."""
    rule, kept = optimizer.rule, optimizer.state
    states = [name for name in rule.states if name in kept and rule.extents[name] == "element"]
    found = [_pass(phase.measure, states, len(phase.sums), ()) for phase in rule.phases if phase.measure is not None]
    return [*found, _pass(rule.update, states, 1, ("p",))]


def _pass(function: Callable[..., Any], states: list[str], first: int, always: tuple[str, ...]) -> Pass:
    """`first`: which of the results is the first state."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    changed = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    returned = next(node.value for node in ast.walk(tree) if isinstance(node, ast.Return))
    results = returned.elts[first:] if isinstance(returned, ast.Tuple) else []
    written = {ast.unparse(result) for result in results} & changed
    handed_back = [result for result in results if isinstance(result, ast.Name) and result.id not in changed]
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and node not in handed_back}
    names = [name for name in ("p", "g", *states) if name in used or name in always]
    return Pass(tuple(names), (*always, *(name for name in states if name in written)))


class Stepped(Contestant):
    """A rule of fastupdate, with the arguments of a row of tests/golden."""

    name = "fastupdate"

    def __init__(self, workload: Workload, threads: int, rule: str, arguments: Any) -> None:
        super().__init__(workload, threads)
        fu.set_num_threads(threads)
        self.optimizer = rules.get(rule)(self.params, **arguments)
        self.optimizer.bind(self.grads)
        self.step = self.optimizer.step


class Passes(Contestant):
    """The stream of a rule's passes; with `divide`, the one that takes longer over its arithmetic."""

    name = "stream"

    def __init__(self, workload: Workload, threads: int, passes: list[Pass], divide: bool) -> None:
        super().__init__(workload, threads)
        arrays = {"p": self.params[0], "g": self.grads[0]}
        pointers = [[arrays.setdefault(name, np.zeros_like(self.params[0])) for name in each.reads] for each in passes]
        self.kept = arrays
        calls = []
        for each, found in zip(passes, pointers, strict=True):
            addresses = (ctypes.c_void_p * len(found))(*(a.ctypes.data for a in found))
            writes = sum(1 << k for k, name in enumerate(each.reads) if name in each.writes)
            calls.append((addresses, len(found), ctypes.c_uint32(writes), ctypes.c_int64(workload.elements), threads))
        pass_over = library().pass_over

        def step() -> None:
            for call in calls:
                pass_over(*call, ctypes.c_float(STREAM_FACTOR), divide)

        self.step = step


class TorchPeer(Contestant):
    def __init__(self, workload: Workload, threads: int, peer: Torch, arguments: Any) -> None:
        super().__init__(workload, threads)
        import torch

        torch.set_num_threads(threads)
        peer = copy.copy(peer)
        peer.arguments = peer.arguments | arguments
        peer.start(self.params)
        for p, g in zip(peer.weights, self.grads, strict=True):
            p.grad = torch.from_numpy(g).clone()
        self.step = peer.optimizer.step


class OptaxPeer(Contestant):
    def __init__(self, workload: Workload, threads: int, peer: Optax) -> None:
        super().__init__(workload, threads)
        import jax

        peer.start(self.params)
        self.grads = [jax.numpy.array(g) for g in self.grads]
        self.weights, self.state = jax.tree.map(
            jax.numpy.copy, (peer.weights, peer.state)
        )  # some states are the weights

        def update(weights: Any, state: Any, grads: Any) -> Any:
            updates, state = peer.optimizer.update(grads, state, weights)
            return peer.optax.apply_updates(weights, updates), state

        self.update = jax.jit(update, donate_argnums=(0, 1))
        self.wait: Any = jax.block_until_ready

    def step(self) -> None:
        self.weights, self.state = self.wait(self.update(self.weights, self.state, self.grads))


class Asking:
    """Who asks for other libraries (tests/peers.py): as a test would that may."""

    def get_closest_marker(self, name: str) -> str:
        return name


peers.running[:] = [Asking()]


class Peer(NamedTuple):
    """Whom a rule is timed beside, and the arguments that make both the same."""

    name: str
    arguments: Any
    contestant: Callable[[Workload, int], Contestant]


def peers_of(rule: str) -> list[Peer]:
    """Of each package the plainest row of tests/golden that can be timed; the plainest of all comes first.

    Schedules there are made for twelve steps.
    """
    rows = [row for row in golden.rows(rule).values() if isinstance(row.peer, Torch | Optax)]
    rows = [row for row in rows if not any(map(callable, row.arguments.values()))]
    rows.sort(key=lambda row: sum(value is True for value in row.arguments.values()))
    found: dict[str, Peer] = {}
    for row in rows:
        for name, contestant in ways(row.peer):
            found.setdefault(name, Peer(name, row.arguments, contestant))
    return [*found.values()]


def ways(peer: Torch | Optax) -> Iterator[tuple[str, Callable[[Workload, int], Contestant]]]:
    """The ways in which a peer takes its steps."""
    if isinstance(peer, Optax):
        yield "optax jit", lambda w, n: OptaxPeer(w, n, peer)
    elif peer.of != "torch.optim":
        yield peer.of, lambda w, n: TorchPeer(w, n, peer, {})
    else:
        has_foreach = "foreach" in inspect.signature(getattr(torch_optim(), peer.name)).parameters
        yield "torch default", lambda w, n: TorchPeer(w, n, peer, {"foreach": False} if has_foreach else {})
        if has_foreach:
            yield "torch foreach", lambda w, n: TorchPeer(w, n, peer, {"foreach": True})


def torch_optim() -> Any:
    from torch import optim

    return optim


def turns(ours: Callable[[], Contestant], theirs: Callable[[], Contestant], protocol: Protocol) -> tuple[float, Ratio]:
    pair = take_turns(ours(), theirs(), protocol)
    return float(np.median(pair.reference)), pair.ratio


def row(name: str, protocol: Protocol) -> dict[str, Any]:
    """What is measured of one rule."""
    peers, n = peers_of(name), protocol.threads
    first = peers[0].arguments if peers else {}
    like = Stepped(Workload("like", "", ((8, 8),)), n, name, first)
    passes = passes_of(like.optimizer)
    elementwise = like.optimizer.rule.matrix is None
    large, small = (MATRIX, SMALL) if elementwise else (SQUARE, SMALL_MATRICES)
    ours = partial(Stepped, large, n, name, first)
    streams = [turns(ours, partial(Passes, large, n, passes, divide), protocol) for divide in (False, True)]
    seconds, stream = min(streams, key=lambda found: found[1].value)
    accesses = sum(len(each.reads) + len(each.writes) for each in passes)
    found = {"rule": name, "passes": len(passes), "bytes": 4 * accesses, "seconds": seconds, "stream": asdict(stream)}
    return found | {"peers": {peer.name: beside(name, peer, (large, small), protocol) for peer in peers}}


def beside(name: str, peer: Peer, workloads: tuple[Workload, Workload], protocol: Protocol) -> dict[str, Any]:
    """How many times longer a peer takes."""
    n, found = protocol.threads, {}
    for key, workload in zip(("large", "small"), workloads, strict=True):
        if workload is SMALL_MATRICES and peer.name == "optax jit":
            found["problem"] = f"compiling a step over {len(workload.shapes)} matrices takes minutes"
            continue
        ours, theirs = partial(Stepped, workload, n, name, peer.arguments), partial(peer.contestant, workload, n)
        try:
            found[key] = asdict(turns(ours, theirs, protocol)[1])
        except (RuntimeError, MemoryError, TypeError) as error:  # what it does not do
            found["problem"] = f"{type(error).__name__}: {error}".splitlines()[0]
    return found


HEAD = """| rule | passes | bytes per element | a step | of the stream | peers: 10⁷ elements, 1000 × 64 |
|---|---|---|---|---|---|"""


def measured(names: list[str], protocol: Protocol) -> Iterator[dict[str, Any]]:
    for name in names:
        found = row(name, protocol)
        print(f"| {' | '.join(cells_of_rule(found))} |", flush=True)
        yield found


def main(names: list[str], protocol: Protocol, path: Path | None) -> int:
    """Prints the table, and writes what was measured as JSON."""
    machine.require_compiled(choose.native_problem())
    print(HEAD)
    found = list(measured(names, protocol))
    if path:
        about = {"machine": machine.facts(protocol.threads), "rows": found}
        path.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    return 0
