"""The command line: `fastupdate train`, `fastupdate info` and `fastupdate rule`."""

from __future__ import annotations

import argparse
import errno
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import fastupdate as fu
from fastupdate import show
from fastupdate.starting import INTERRUPTED

if TYPE_CHECKING:
    from fastupdate.demo.data import Dataset
    from fastupdate.demo.train import Settings

UNREAD = 141


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, without the usage that argparse puts above it."""
        self.exit(2, f"{self.prog}: error: {message}\n")

    def print_help(self, file: Any = None) -> None:
        """Like argparse's, which does not tell that nobody could read it."""
        print(self.format_help(), end="", file=file)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0 done, 1 failed, 2 wrong arguments; as shells count signals, 130 interrupted, 141 nobody reads the output any more.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()  # or it fails after everything, where nobody catches it
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's flush at exit fails as well
        if error.errno == errno.EPIPE:  # the reader, `head` for one, has seen enough
            return UNREAD
        print(f"fastupdate: error: {error.strerror}", file=sys.stderr)
        return 1


def _run(argv: Sequence[str] | None) -> int:
    parser = _make_parser()
    args = parser.parse_args(argv)
    if args.version:
        print(f"fastupdate {fu.__version__}")
        return 0
    if "run" not in args:
        parser.print_help()
        return 0
    status: int = args.run(args)
    return status


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fastupdate", description="Weight updates in one pass: the demonstration and the diagnosis.")
    parser.add_argument("--version", action="store_true", help="show the version")
    commands = parser.add_subparsers(metavar="COMMAND")
    _add_train(commands)
    info = commands.add_parser("info", help="show versions, backends and devices")
    info.set_defaults(run=_info)
    show.add_command(commands)
    return parser


def _add_train(commands: Any) -> None:
    train = commands.add_parser(
        "train",
        help="train a network on real images with one rule, or compare several",
        description="Train a network written in plain NumPy on real images. Prints loss, test accuracy and the time "
        "that updates took, beside plain NumPy's, and draws the curves. Needs: pip install 'fastupdate[demo]'",
    )
    _add_inputs(train)
    _add_outputs(train)
    train.set_defaults(run=_train, parser=train)


def _add_inputs(train: argparse.ArgumentParser) -> None:
    """What is trained, on what, and how."""
    train.add_argument(
        "--rule",
        nargs="+",
        action="extend",
        metavar="NAME",
        help=f"one or more of: {', '.join(fu.rules.names())} (default: adamw); or all: each, in minutes, with a "
        "learning rate that is chosen from a small grid",
    )
    train.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder with the IDX files of MNIST or Fashion-MNIST (default: scikit-learn's handwritten digits)",
    )
    train.add_argument(
        "--epochs", type=_positive_integer, metavar="N", help="default: 30 for the digits, 10 for --data"
    )
    train.add_argument(
        "--batch-size", type=_positive_integer, metavar="N", help="default: 16 for the digits, 128 for --data"
    )
    train.add_argument(
        "--lr", type=_learning_rate, metavar="X", help="learning rate at the start (default: the rule's)"
    )
    train.add_argument(
        "--pieces",
        type=_positive_integer,
        metavar="N",
        help="cut each batch into N, whose gradients add up in one order: the same weights on any number of processes "
        "(mpiexec -n 4 fastupdate train --pieces 4). Needs: pip install 'fastupdate[mpi]'",
    )
    train.add_argument("--seed", type=_seed, default=0, metavar="N", help="of weights and batches (default: 0)")
    train.add_argument(
        "--threads", type=_positive_integer, default=1, metavar="N", help="for the update (default: 1, as NumPy has)"
    )
    train.add_argument("--backend", metavar="NAME", help="what runs the update (default: the library's choice)")


def _add_outputs(train: argparse.ArgumentParser) -> None:
    train.add_argument(
        "--out",
        type=Path,
        default=Path("fastupdate-train.png"),
        metavar="PNG",
        help="picture of the curves (default: %(default)s)",
    )
    train.add_argument(
        "--monitor",
        type=Path,
        metavar="DIR",
        help="folder for statistics of every step, as JSON lines, and for TensorBoard too if tensorboardX is "
        "installed; also says what is wrong with the training",
    )
    train.add_argument(
        "--json", type=Path, metavar="PATH", help="with --rule all: where to write all that was found, as JSON"
    )


def _info(args: argparse.Namespace) -> int:
    print(fu.info())
    return 0


def _train(args: argparse.Namespace) -> int:
    from fastupdate.demo import DemoError, ranks  # here, because only this command needs what the demo imports

    parser: _Parser = args.parser
    comm = None
    try:
        comm = ranks.communicator(args.pieces)
        with ranks.together(comm, args.pieces):
            return _compare(args, parser, comm)
    except DemoError as error:
        if ranks.is_first(comm):
            parser.error(str(error))
    return 2


def _compare(args: argparse.Namespace, parser: _Parser, comm: Any) -> int:
    from fastupdate.demo import DemoError, data, ranks, report, train

    every, rules = _choose_rules(args.rule or ["adamw"], parser)
    for name, given, wanted in (
        ("--lr", args.lr, False),
        ("--monitor", args.monitor, False),
        ("--json", args.json, True),
    ):
        if given is not None and every is not wanted:
            raise DemoError(f"{name}: expected {'--rule all beside it' if wanted else 'none beside --rule all'}")
    if every and comm is not None:
        raise DemoError("--rule all: expected one process, and no --pieces")
    ranks.on_first(comm, lambda: report.check_writable(args.out))
    if every and args.json is not None:
        report.check_opens("--json", args.json)
    images = data.load(args.data)
    settings = train.Settings(
        epochs=args.epochs or images.epochs,
        batch_size=args.batch_size or images.batch_size,
        seed=args.seed,
        lr=args.lr,
        backend=args.backend,
        monitor=args.monitor,
        comm=comm,
        pieces=args.pieces,
    )
    train.check(rules, settings)
    fu.set_num_threads(args.threads)
    return (_choose if every else _train_each)(args, rules, images, settings)


def _train_each(args: argparse.Namespace, rules: list[str], images: Dataset, settings: Settings) -> int:
    from fastupdate.demo import ranks, report, train

    runs = [train.Run(rule, train.learning_rate(rule, settings)) for rule in rules]
    interrupted = False
    try:
        with report.make_progress(rules) as progress:
            for run in runs:
                train.train(run, images, settings, progress)
    except KeyboardInterrupt:
        interrupted = True
    shown = [run for run in runs if run.epochs]
    if shown:
        print(f"\n{report.format_table(shown, report.terminal_width())}")
        if ranks.is_first(settings.comm):
            report.draw_curves(shown, f"fastupdate train: {images.name}, seed {settings.seed}", args.out)
        print(f"curves: {args.out}")
    if args.monitor is not None:
        there = any(args.monitor.rglob("*tfevents*"))
        hint = f"tensorboard --logdir {args.monitor}" if there else "TensorBoard's need fastupdate[tensorboard]"
        print(f"statistics: {args.monitor} ({hint})")
        print("".join(f"{line}\n" for line in report.findings(shown)), end="")
    problems = report.problems(runs, settings.epochs, interrupted)
    for problem in problems if ranks.is_first(settings.comm) else ():
        print(f"{args.parser.prog}: {problem}", file=sys.stderr)
    return INTERRUPTED if interrupted else 1 if problems else 0


def _choose(args: argparse.Namespace, rules: list[str], images: Dataset, settings: Settings) -> int:
    """Every rule, with a learning rate of its own."""
    from fastupdate.demo import choosing

    choices: list[choosing.Choice] = []
    status = 0
    print(f"{len(rules)} rules, each with the learning rate that suits it:\n\n{choosing.HEAD}", flush=True)
    try:
        for rule in rules:
            choices.append(choosing.chosen(rule, images, settings))
            print(choosing.line(choices[-1]), flush=True)
    except KeyboardInterrupt:
        print(f"{args.parser.prog}: interrupted; rules done: {len(choices)} of {len(rules)}", file=sys.stderr)
        status = INTERRUPTED
    if choices:
        print(f"\n{choosing.table(choices)}")
        choosing.draw([choice.facts() for choice in choices], choosing.title(images.name, settings.seed), args.out)
        print(f"curves: {args.out}")
        if args.json is not None:
            choosing.write(choices, images, settings, args.json)
    return status


def _choose_rules(given: Sequence[str], parser: _Parser) -> tuple[bool, list[str]]:
    """Whether all are meant, and which."""
    try:
        chosen = ["all" if word.lower() == "all" else fu.rules.named(word) for word in given]
    except ValueError as error:
        parser.error(f"--rule: {error}; or all")
    return "all" in chosen, fu.rules.names() if "all" in chosen else list(dict.fromkeys(chosen))


def _positive_integer(text: str) -> int:
    return _integer(text, low=1, expected="a positive integer")


def _seed(text: str) -> int:
    return _integer(text, low=0, expected="an integer, 0 or above")


def _integer(text: str, low: int, expected: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = low - 1
    if number < low:
        raise argparse.ArgumentTypeError(f"expected {expected}, received {text!r}")
    return number


def _learning_rate(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0.0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a finite number above 0, received {text!r}")
    return number
