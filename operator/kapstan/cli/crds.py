"""`kapstan crds`: the custom resource definitions, and what else is generated for an installation.

Print them, or write them where the repository and the chart keep them; `--check` tells what is out of date.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click


def _generated(root: Path) -> Iterator[tuple[Path, str]]:
    """(path, text) of every generated file of a repository."""
    from kapstan.controllers import rbac
    from kapstan.resources import crd

    for name, text in crd.rendered():
        yield root / "crds" / name, text
        yield root / "charts" / "kapstan" / "files" / "crds" / name, text
    for name, text in rbac.rendered():
        yield root / "charts" / "kapstan" / "files" / name, text


@click.command()
@click.option("--write", is_flag=True, help="Write crds/ and the generated files of charts/kapstan.")
@click.option("--check", is_flag=True, help="Fail if one of those files is not as it would be written.")
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="The repository; the current directory if not given.",
)
def command(*, write: bool, check: bool, root: Path) -> None:
    """Print the custom resource definitions, ready for `kubectl apply -f -`."""
    from kapstan.resources import crd

    if write and check:
        raise click.UsageError("--write and --check exclude each other")
    if check:
        stale = [path for path, text in _generated(root) if not path.exists() or path.read_text() != text]
        if stale:
            names = ", ".join(str(path) for path in stale)
            raise click.ClickException(f"out of date: {names}; run `kapstan crds --write`")
        return
    if write:
        for path, text in _generated(root):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            click.echo(str(path))
        return
    for _, text in crd.rendered():
        click.echo(f"---\n{text}", nl=False)
