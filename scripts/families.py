"""The README's table of model families, made of what tests/engine/test_families.py proves: python -m scripts.families

Writes it between the README's two marks.
"""

from collections.abc import Mapping
from pathlib import Path

from tests.engine.families import FAMILIES, REASONS, TEXT_PARTS, Family
from truss_model.engine.execution.llama import llama_layers

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- families: python -m scripts.families -->", "<!-- end of families -->"
HEAD = ("family", "tried with", "outcome", "layers", "tool calls")


def table() -> str:
    """Markdown: a row for each family, served ones first."""
    rows = []
    for config in sorted({family.config for family in FAMILIES.values()}):
        for served in (True, False):
            members = {
                name: family
                for name, family in FAMILIES.items()
                if family.config == config and family.refused in (REASONS if not served else (None,))
            }
            if members:
                rows.append(row(config, members, served=served))
    for config, parts in TEXT_PARTS.items():
        rows.append((f"`{config}`", f"text part: {', '.join(parts)}", "equal", "its text part's", " "))
    rows.sort(key=lambda cells: (cells[2] != "equal", cells[0]))
    lines = [HEAD, tuple("---" for _ in HEAD), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def row(config: str, members: Mapping[str, Family], *, served: bool) -> tuple[str, ...]:
    variants = ", ".join(part for name in members if (part := name.partition(", ")[2])) or " "
    family = next(iter(members.values()))
    if not served:
        return f"`{config}`", variants, f"refused: {REASONS[family.refused or '']}", " ", " "
    fused = bool(llama_layers(family.make()))
    return f"`{config}`", variants, "equal", "fused" if fused else "transformers'", family.tools or " "


def with_table(readme: str) -> str:
    """The README's text with the table as it is now."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
