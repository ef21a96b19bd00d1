"""``smartfrz predictor ...``: hands its arguments to the torch side in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import typer

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}

predictor = typer.Typer(
    no_args_is_help=True,
    help="Collect trajectories, label, cross-validate, train and evaluate the predictor (needs the train extra).",
)


def _hand_on(ctx: typer.Context) -> None:
    command = [sys.executable, "-m", "workers.training.predictor_cli", str(ctx.info_name), *ctx.args]
    with subprocess.Popen(command) as child:
        while True:
            try:
                code = child.wait()
                break
            except KeyboardInterrupt:
                continue  # the child has the signal too, and ends by itself
    raise typer.Exit(code if code >= 0 else 128 - code)


@predictor.command("collect", context_settings=PASS_ON, add_help_option=False)
def collect(ctx: typer.Context) -> None:
    """Record weight trajectories of real training runs."""
    _hand_on(ctx)


@predictor.command("label", context_settings=PASS_ON, add_help_option=False)
def label(ctx: typer.Context) -> None:
    """Label the trajectories by CKA against the finished model."""
    _hand_on(ctx)


@predictor.command("crossval", context_settings=PASS_ON, add_help_option=False)
def crossval(ctx: typer.Context) -> None:
    """Leave each network and each data set out in turn, and keep every score."""
    _hand_on(ctx)


@predictor.command("train", context_settings=PASS_ON, add_help_option=False)
def train(ctx: typer.Context) -> None:
    """Train the predictor on labelled trajectories."""
    _hand_on(ctx)


@predictor.command("evaluate", context_settings=PASS_ON, add_help_option=False)
def evaluate(ctx: typer.Context) -> None:
    """What the predictors are worth on networks and data that they never saw."""
    _hand_on(ctx)
