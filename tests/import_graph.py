"""Which modules of other packages a program can import: its own modules read as syntax trees, none of them executed.

Imports inside functions count, those below `if TYPE_CHECKING` do not. A module named by a literal or a
constant counts as well: find_spec("x"), import_module(X) and the program of [python, "-m", "x"].
"""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

from packaging.utils import canonicalize_name

IMPORTERS = {"find_spec", "import_module"}


@dataclass(slots=True)
class Imports:
    """modules: name -> the files that import it. keywords: names of arguments passed anywhere in the files read."""

    modules: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    keywords: set[str] = field(default_factory=set)


def reachable_imports(roots: Mapping[str, Path], entries: tuple[str, ...]) -> Imports:
    """Follow the imports of `entries` through `roots`: name of a package or module -> its folder or its file less .py.

    Raises ValueError where a module of theirs is imported that is not there.
    """
    found = Imports()
    seen: set[str] = set()
    queue = [module for entry in entries for module in _with_parents(entry)]
    while queue:
        module = queue.pop()
        if module in seen:
            continue
        seen.add(module)
        file = _file(roots, module)
        if file is None and _folder(roots, module).is_dir():
            continue
        if file is None:
            raise ValueError(f"{module} is an entry or an import of its own package, but no file is there")
        tree = ast.parse(file.read_text())
        found.keywords |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg}
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        for name, part in _imports(tree, package):
            if name.partition(".")[0] not in roots:
                found.modules[f"{name}.{part}" if part else name].add(module)
                continue
            inner = f"{name}.{part}" if part and _file(roots, f"{name}.{part}") else name
            queue += _with_parents(inner)
    return found


def _file(roots: Mapping[str, Path], module: str) -> Path | None:
    base = _folder(roots, module)
    return next((file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()), None)


def _folder(roots: Mapping[str, Path], module: str) -> Path:
    top, *rest = module.split(".")
    return roots[top].joinpath(*rest)


def _with_parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _imports(tree: ast.AST, package: str) -> Iterator[tuple[str, str]]:
    """(module, name taken from it or empty) of each import."""
    constants = dict(_constants(tree))
    for node in _executed(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            function, argument = node.func, node.args[0]
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            value = argument.value if isinstance(argument, ast.Constant) else constants.get(getattr(argument, "id", ""))
            if name in IMPORTERS and isinstance(value, str):
                yield value, ""
        elif isinstance(node, ast.List):
            words = [part.value if isinstance(part, ast.Constant) else None for part in node.elts]
            if "-m" in words and isinstance(program := words[words.index("-m") + 1], str):
                yield program, ""


def _constants(tree: ast.AST) -> Iterator[tuple[str, object]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            yield from ((target.id, node.value.value) for target in node.targets if isinstance(target, ast.Name))


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only type checkers read."""
    queue = [tree]
    while queue:
        node = queue.pop()
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            queue += node.orelse
        else:
            queue += ast.iter_child_nodes(node)


def distribution_of(module: str) -> str | None:
    """Canonical name of the distribution that holds the module; None for one that is not installed here."""
    owners = _owners()
    parts = module.split(".")
    for count in range(len(parts), 0, -1):
        if (owner := owners.get(".".join(parts[:count]))) is not None:
            return owner
    return None


@cache
def _owners() -> dict[str, str]:
    """Dotted module -> distribution. A folder that several distributions share is a namespace and has no owner."""
    owners: dict[str, str] = {}
    for found in distributions():
        name = canonicalize_name(found.metadata["Name"])
        for path in found.files or ():
            stem, _, suffix = path.name.partition(".")
            if ".." not in path.parts and (suffix == "py" or suffix.endswith(("so", "pyd"))):
                owners[".".join(path.parent.parts if stem == "__init__" else (*path.parent.parts, stem))] = name
    return owners
