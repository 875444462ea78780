"""Write ``src/ml_toolbox/state/ddl.py`` from the tables of ``ml_toolbox.state.schema``: ``python scripts/compile_ddl.py``."""

from __future__ import annotations

from pathlib import Path

from ml_toolbox.state import schema

TARGET = Path(__file__).parents[1] / "src/ml_toolbox/state/ddl.py"

HEADER = '''"""The tables of :mod:`schema` as text, to make a new database without importing SQLAlchemy.

Written by ``python scripts/compile_ddl.py``; a test compiles :mod:`schema` and demands these very statements.
"""

from __future__ import annotations
'''


def quoted(statement: str) -> str:
    """The statement over several lines, as a string of Python."""
    head, bracket, rest = statement.partition(" ( ") if statement.startswith("CREATE TABLE") else (statement, "", "")
    if not bracket:
        return f"    {statement!r},\n" if "'" not in statement else f'    "{statement}",\n'
    body, _, _ = rest.rpartition(" )")
    parts, depth, line = [], 0, ""
    for character in body:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append(line.strip() + ",")
            line = ""
        else:
            line += character
    lines = "\n".join(f"    {part}" for part in [*parts, line.strip()])
    text = f"{head} (\n{lines}\n    )"
    return f"    '''{text}''',\n" if '"' in text else f'    """{text}""",\n'


def main() -> None:
    text = HEADER
    for name, dialect in (("SQLITE", "sqlite"), ("POSTGRESQL", "postgresql")):
        statements = "".join(map(quoted, schema.compiled(dialect)))
        text += f"\n{name}: tuple[str, ...] = (\n{statements})\n"
    TARGET.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
