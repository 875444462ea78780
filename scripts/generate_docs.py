"""Write the pages that are made from code, or with ``--check`` fail when one of them is stale.

- the table of what works where, in README.md and docs/backends.md: from each backend's declared lacks;
- docs/cli.md: from the commands' own help texts;
- docs/errors.md: from the error tree.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- generated: what works where -->", "<!-- end of generated part -->"


def capability_tables() -> str:
    """One table per port: rows are capabilities, columns are backends. Asked of the declarations, no credentials."""
    from ml_toolbox.app import Toolbox
    from ml_toolbox.ports import endpoints, jobs

    infos = [info for name, (provider, info) in sorted(Toolbox().backends().items()) if _is_built_in(provider)]
    parts = []
    for title, port, capabilities in (
        ("Training jobs", "jobs", jobs.CAPABILITIES),
        ("Endpoints", "endpoints", endpoints.CAPABILITIES),
    ):
        columns = [info for info in infos if getattr(info, port) is not None]
        lines = [f"| {title} | {' | '.join(info.name for info in columns)} |", "|---" * (len(columns) + 1) + "|"]
        for capability in capabilities:
            cells = [_cell(getattr(info, port), capability) for info in columns]
            lines.append(f"| {capability} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, _store_table()])


def _store_table() -> str:
    """What each object store lacks; opening one reads no credentials and sends nothing."""
    from ml_toolbox.objects import open_store
    from ml_toolbox.ports.objects import CAPABILITIES

    with tempfile.TemporaryDirectory() as folder:
        stores = {
            "files": open_store(folder),
            "memory": open_store("memory://table"),
            "S3": open_store("s3://bucket"),
            "Azure Blob": open_store("az://account/container"),
        }
        rows = {name: [_cell(store.lacks, name) for store in stores.values()] for name in CAPABILITIES}
    lines = [f"| Object storage | {' | '.join(stores)} |", "|---" * (len(stores) + 1) + "|"]
    lines += [f"| {capability} | {' | '.join(cells)} |" for capability, cells in rows.items()]
    return "\n".join(lines)


def _is_built_in(provider: object) -> bool:
    return type(provider).__module__.startswith("ml_toolbox.")


def _cell(lacks: Mapping[str, object], capability: str) -> str:
    lack = lacks.get(capability)
    return "yes" if lack is None else f"{getattr(lack, 'kind')}: {getattr(lack, 'reason')}"  # noqa: B009


def cli_reference() -> str:
    """Every command with its help text, as ``--help`` prints it on 100 columns."""
    from ml_toolbox.cli.main import cli

    sections = ["# Command reference\n\nMade from the commands' own help texts.\n"]
    for path, command, context in _walk(cli, "mltoolbox", None):
        sections.append(f"## {path}\n\n```\n{command.get_help(context)}\n```\n")
    return "\n".join(sections)


def _walk(
    command: click.Command, path: str, parent: click.Context | None
) -> Iterator[tuple[str, click.Command, click.Context]]:
    context = click.Context(command, info_name=path.rsplit(" ", 1)[-1], parent=parent, terminal_width=100)
    yield path, command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from _walk(child, f"{path} {name}", context)


def error_reference() -> str:
    from ml_toolbox.base import errors

    rows = ["# Errors\n", "| error | code | exit code | HTTP | retryable | meaning |", "|---|---|---|---|---|---|"]
    pending: list[type[errors.ToolboxError]] = [errors.ToolboxError]
    while pending:
        kind = pending.pop(0)
        pending.extend(kind.__subclasses__())
        meaning = (kind.__doc__ or "").strip().splitlines()[0]
        retry = "yes" if kind.retryable else "no"
        rows.append(
            f"| {kind.__name__} | `{kind.code}` | {kind.exit_code} | {kind.http_status} | {retry} | {meaning} |"
        )
    return "\n".join(rows) + "\n"


def pages() -> dict[Path, str]:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    tables = capability_tables()
    return {
        readme: f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}",
        ROOT / "docs" / "backends.md": f"# What works where\n\nMade from each backend's declarations.\n\n{tables}\n",
        ROOT / "docs" / "cli.md": cli_reference(),
        ROOT / "docs" / "errors.md": error_reference(),
    }


def main() -> int:
    check = "--check" in sys.argv[1:]
    os.environ.setdefault("MLTOOLBOX_HOME", str(ROOT / ".cache" / "docs-home"))
    made = pages()
    stale = [page for page, text in made.items() if not page.exists() or page.read_text(encoding="utf-8") != text]
    if check:
        for page in stale:
            print(f"stale: {page.relative_to(ROOT)} (run `make docs`)", file=sys.stderr)
        return 1 if stale else 0
    for page in stale:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(made[page], encoding="utf-8")
        print(f"wrote {page.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
