# SPDX-License-Identifier: Apache-2.0
"""One file of torch and diffusers alone, written from our own source: the definitions that some classes need, as they
are there.

A definition is copied as text, with its comments; relative imports become the definitions that they name. Names that
two modules give to different things get the module's name behind them. What only serves bundled models and the Hub's
cache is left out by ``_INSTEAD``.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path


_INSTEAD = {
    "NamedMixin": "AlignedMixin",
    "LocalPipeline": "DiffusionPipeline",
}  # by names of the module that defines the first
_DIGEST = "SHA256_OF_THE_REST"
_HEAD = '''# SPDX-License-Identifier: Apache-2.0
"""{title}

Written by hf_ganzip {version} from its own source, for those who do not install it: torch and diffusers are enough. Do
not edit it here; the file checks that it is as it was written.
"""

from __future__ import annotations

{imports}

{digest} = "{value}"
# diffusers executes a file again for every repository and part; its classes stay those of the first time.
_BEFORE = dict(globals())
'''
_TAIL = """

def _check_this_file() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    found = hashlib.sha256(text.replace({digest}, "").encode()).hexdigest()
    if found != {digest}:
        raise ImportError(
            f"{{__file__}} is not as hf_ganzip wrote it: its SHA-256 is {{found[:16]}}, not {{{digest}[:16]}}. It was "
            "edited or damaged: download it again; or, if the change is your own, remove the call of "
            "_check_this_file at its end."
        )


_check_this_file()
{register}globals().update(_BEFORE)
"""


Key = tuple[str, str]  # module of ours and name in it; or a line of import and ""


@dataclass(frozen=True)
class _Definition:
    """A statement at the top level of a module: the names that it defines, its text, the names it reads when it runs,
    and those of its annotations.
    """

    names: tuple[str, ...]
    text: str
    reads: frozenset[str]
    annotations: frozenset[str]
    is_alias: bool


class _Module:
    """A module of ours: its definitions in their order, and what its imports name."""

    def __init__(self, name: str) -> None:
        self.name = name
        module = importlib.import_module(name)
        package = name if hasattr(module, "__path__") else name.rpartition(".")[0]
        source = Path(str(module.__file__)).read_text(encoding="utf-8")
        tree, lines, end = ast.parse(source), source.splitlines(), 0
        self.definitions: dict[str, _Definition] = {}
        self.imports: dict[str, Key] = {}
        for node in tree.body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                self.imports |= _imported(node, package)
            if names := _defined(node):
                found = _definition(node, names, lines, end)
                self.definitions |= dict.fromkeys(names, found)
            end = node.end_lineno or end
        self.imported = [key[0] for key in self.imports.values() if key[1]]  # modules of ours
        for node in ast.walk(tree):  # within functions
            if isinstance(node, ast.ImportFrom) and node.level:
                self.imports |= _imported(node, package)

    def resolve(self, name: str) -> Key | None:
        """Where a name that is read here is defined; None for builtins and local names."""
        if name in self.definitions:
            return _module(self.name).resolve(_INSTEAD[name]) if name in _INSTEAD else (self.name, name)
        key = self.imports.get(name)
        if key is None or not key[1]:
            return key
        return _module(key[0]).resolve(key[1])


_module = cache(_Module)


def _imported(node: ast.Import | ast.ImportFrom, package: str) -> dict[str, Key]:
    found: dict[str, Key] = {}
    for alias in node.names:
        renamed = f" as {alias.asname}" if alias.asname else ""
        bound = alias.asname or alias.name.partition(".")[0]
        if isinstance(node, ast.Import):
            found[bound] = (f"import {alias.name}{renamed}", "")
        elif node.level:
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1])
            found[bound] = (f"{base}.{node.module}" if node.module else base, alias.name)
        elif node.module != "__future__":
            found[bound] = (f"from {node.module} import {alias.name}{renamed}", "")
    return found


def _defined(node: ast.stmt) -> tuple[str, ...]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return (node.name,)
    if not isinstance(node, (ast.Assign, ast.AnnAssign)):
        return ()
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    flat = [each for target in targets for each in getattr(target, "elts", [target])]
    return tuple(each.id for each in flat if isinstance(each, ast.Name) and each.id != "__all__")


def _definition(node: ast.stmt, names: tuple[str, ...], lines: list[str], end: int) -> _Definition:
    start = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])
    while start - 2 >= end and lines[start - 2].startswith("#"):
        start -= 1  # comments right above
    text = "\n".join(lines[start - 1 : node.end_lineno])
    places = [getattr(each, kind, None) for each in ast.walk(node) for kind in ("annotation", "returns")]
    annotations = {id(name): name.id for place in places if place for name in _names(place)}
    reads = {name.id for name in _names(node) if id(name) not in annotations}
    alias = isinstance(node, (ast.Assign, ast.AnnAssign))
    return _Definition(names, text, frozenset(reads), frozenset(annotations.values()), alias)


def _names(node: ast.AST) -> Iterator[ast.Name]:
    return (each for each in ast.walk(node) if isinstance(each, ast.Name))


def standalone_code(title: str, roots: Iterable[Key], *, opens_packed: bool) -> str:
    """Text of the file.

    Args:
        title: First line of its docstring.
        roots: Module and name of the definitions that it must have; of other libraries, too.
        opens_packed: Whether it lets diffusers open packed and pruned weights.
    """
    roots = [*roots, *[("hf_ganzip.integration.restoring", "register_restoring")] * opens_packed]
    own = [_module(module).resolve(name) for module, name in roots if module.startswith("hf_ganzip")]
    needed = _closure(own)
    counts = Counter(name for _, name in needed)
    names = {(m, name): name if counts[name] == 1 else f"{name}_of_{m.rpartition('.')[2]}" for m, name in needed}
    imports = {"import hashlib", "from pathlib import Path"}
    imports |= {f"from {module} import {name}" for module, name in roots if not module.startswith("hf_ganzip")}
    parts = []
    for module, definition in _in_order(needed):
        renames = {}
        for name in definition.reads | definition.annotations | set(definition.names):
            key = module.resolve(name)
            if key is not None and not key[1]:
                imports.add(key[0])
                renames[name] = _bound(key[0])
            elif key in names:
                renames[name] = names[key]
        parts.append(_renamed(definition.text, {old: new for old, new in renames.items() if old != new}))
    from .. import __version__

    lines = "\n".join(sorted(imports, key=lambda line: (not line.startswith("import"), line)))  # in the usual order
    head = _HEAD.format(title=title, version=__version__, imports=lines, digest=_DIGEST, value="")
    tail = _TAIL.format(digest=_DIGEST, register="register_restoring()\n" * opens_packed)
    text = "\n\n".join([head, *(f"{part}\n" for part in parts)]) + tail
    digest = hashlib.sha256(text.encode()).hexdigest()
    return text.replace(f'{_DIGEST} = ""', f'{_DIGEST} = "{digest}"')


def _closure(roots: Iterable[Key | None]) -> set[Key]:
    """All definitions of ours that the roots need, themselves among them."""
    found: set[Key] = set()
    waiting = [key for key in roots if key is not None]
    while waiting:
        key = waiting.pop()
        if key in found or not key[1]:
            continue
        module = _module(key[0])
        definition = module.definitions[key[1]]
        found |= {(key[0], name) for name in definition.names}
        waiting += [other for name in definition.reads if (other := module.resolve(name))]
        for name in definition.annotations:
            other = module.resolve(name)
            if other and other[1] and _module(other[0]).definitions[other[1]].is_alias:
                waiting.append(other)
    return found


def _in_order(needed: set[Key]) -> Iterator[tuple[_Module, _Definition]]:
    """Each definition once, behind those of the modules that its own imports."""
    done: set[str] = set()

    def visit(name: str) -> Iterator[tuple[_Module, _Definition]]:
        if name in done:
            return
        done.add(name)
        module = _module(name)
        for other in module.imported:
            yield from visit(other)
        for definition in dict.fromkeys(module.definitions.values()):
            if any((name, each) in needed for each in definition.names):
                yield module, definition

    for name in sorted({module for module, _ in needed}):
        yield from visit(name)


def _renamed(text: str, renames: dict[str, str]) -> str:
    """The text of a statement with other names, and without its relative imports."""
    lines, edits = text.encode().split(b"\n"), []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name) and node.id in renames:
            edits.append((node.lineno, node.col_offset, node.id))
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in renames and node.col_offset == 0:
            edits.append((node.lineno, len("def " if isinstance(node, ast.FunctionDef) else "class "), node.name))
    for line, column, old in sorted(edits, reverse=True):
        row = lines[line - 1]
        lines[line - 1] = row[:column] + renames[old].encode() + row[column + len(old.encode()) :]
    text = b"\n".join(lines).decode()
    return re.sub(r"^ +from \.[\w.]* import [^(\n]*\n\n?", "", text, flags=re.M)


def _bound(line: str) -> str:
    return line.split()[-1].partition(".")[0] if line.startswith("import") and " as " not in line else line.split()[-1]
