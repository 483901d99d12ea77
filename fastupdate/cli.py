"""The command line: `fastupdate train`, `fastupdate info` and `fastupdate rule`."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import fastupdate as fu
from fastupdate import show


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, without the usage that argparse puts above it."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 failed, 2 wrong arguments, 130 interrupted."""
    parser = _make_parser()
    args = parser.parse_args(argv)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's flush at exit fails as well
        return 1
    return status


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fastupdate", description="Weight updates in one pass: the demonstration and the diagnosis.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="train a network on real images with one rule, or compare several",
        description="Train a network written in plain NumPy on real images. Prints loss, test accuracy and the time "
        "that updates took, beside plain NumPy's, and draws the curves. Needs: pip install 'fastupdate[demo]'",
    )
    train.add_argument(
        "--rule",
        nargs="+",
        default=["adamw"],
        metavar="NAME",
        help=f"one or more of: {', '.join(fu.rules.names())}; or all (default: adamw)",
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
    train.add_argument("--seed", type=_seed, default=0, metavar="N", help="of weights and batches (default: 0)")
    train.add_argument(
        "--threads", type=_positive_integer, default=1, metavar="N", help="for the update (default: 1, as NumPy has)"
    )
    train.add_argument("--backend", metavar="NAME", help="what runs the update (default: the library's choice)")
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
        help="folder for statistics of every step, as JSON lines and for TensorBoard; also says what is wrong with the "
        "training. Needs: pip install 'fastupdate[tensorboard]'",
    )
    train.set_defaults(run=_train, parser=train)

    info = commands.add_parser("info", help="show versions, backends and devices")
    info.set_defaults(run=_info)

    show.add_command(commands)
    return parser


def _info(args: argparse.Namespace) -> int:
    print(fu.info())
    return 0


def _train(args: argparse.Namespace) -> int:
    from fastupdate.demo import DemoError  # here, because only this command needs what the demo imports

    parser: _Parser = args.parser
    try:
        return _compare(args, parser)
    except DemoError as error:
        parser.error(str(error))


def _compare(args: argparse.Namespace, parser: _Parser) -> int:
    from fastupdate.demo import data, report, train

    rules = _choose_rules(args.rule, parser)
    report.check_writable(args.out)
    images = data.load(args.data)
    settings = train.Settings(
        epochs=args.epochs or images.epochs,
        batch_size=args.batch_size or images.batch_size,
        seed=args.seed,
        lr=args.lr,
        backend=args.backend,
        monitor=args.monitor,
    )
    train.check(rules, settings)
    fu.set_num_threads(args.threads)
    with report.make_progress(rules) as progress:
        runs = [train.train(rule, images, settings, progress) for rule in rules]
    print(f"\n{report.format_table(runs)}")
    report.draw_curves(runs, f"fastupdate train: {images.name}, seed {settings.seed}", args.out)
    print(f"curves: {args.out}")
    if args.monitor is not None:
        print(f"statistics: {args.monitor} (tensorboard --logdir {args.monitor})")
        for run in runs:
            for line in map(str, run.findings) if run.findings else ["nothing wrong is found"]:
                print(f"{run.rule}: {line}")
    for run in runs:
        if run.diverged:
            message = f"{run.rule} diverged in epoch {len(run.losses)}: try a smaller --lr"
            print(f"{parser.prog}: {message}", file=sys.stderr)
    return 1 if any(run.diverged for run in runs) else 0


def _choose_rules(given: Sequence[str], parser: _Parser) -> list[str]:
    known = fu.rules.names()
    for name in given:
        if name not in (*known, "all"):
            parser.error(f"--rule: unknown rule {name!r}; choose from {', '.join(known)} or all")
    return known if "all" in given else list(dict.fromkeys(given))


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
