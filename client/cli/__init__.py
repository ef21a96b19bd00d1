"""The ``smartfrz`` command line: typer for arguments, rich for tables. Each file holds one group of commands."""

from __future__ import annotations


def main() -> None:
    """Entry point."""
    from client.cli.app import app

    app(prog_name="smartfrz")
