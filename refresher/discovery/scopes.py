"""What a name stands for in Python: modules, classes and functions, and what they import."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from pathlib import Path

from refresher.discovery.constants import UNKNOWN, merged, value_of
from refresher.discovery.findings import Place
from refresher.discovery.walking import Unreadable, Walk, read

Definition = ast.FunctionDef | ast.AsyncFunctionDef


class _How(Enum):
    """What a statement does to a name."""

    #: It is this expression.
    SET = auto()
    #: A dictionary has these entries as well.
    MERGED = auto()
    #: It is this class.
    CLASS = auto()
    #: It is imported.
    IMPORTED = auto()
    #: Only running the code would tell.
    OPAQUE = auto()


@dataclass(frozen=True, slots=True)
class _Import:
    """`from … import name`, or `import module` where there is no name."""

    module: str
    name: str | None
    level: int


@dataclass(frozen=True, slots=True)
class _Binding:
    how: _How
    line: int
    what: ast.expr | ast.ClassDef | _Import | None = None


class Scope:
    """The names of a module, a class or a function."""

    def __init__(self, body: Sequence[ast.stmt], module: Module, outer: Scope | None) -> None:
        self.module = module
        self.file = module.file
        self._outer = outer
        self._bindings = _Collector.collect(body)
        self._values: dict[str, object] = {}

    def lookup(self, name: str) -> object:
        """The value of a name here or around; `UNKNOWN` where it cannot be told."""
        if name in self._bindings:
            return self.member(name)
        return UNKNOWN if self._outer is None else self._outer.lookup(name)

    def member(self, name: str) -> object:
        """The value of a name of this very scope."""
        if name not in self._values:
            self._values[name] = UNKNOWN  # for a name that stands for itself in the end
            self._values[name] = self._value(name, self._bindings.get(name, []))
        return self._values[name]

    def hide(self, names: Iterator[str]) -> None:
        """Take names for what only running the code would tell, such as parameters."""
        self._bindings |= {name: [_Binding(_How.OPAQUE, 0)] for name in names}

    def _value(self, name: str, bindings: list[_Binding]) -> object:
        if not bindings:
            return UNKNOWN
        first, *more = bindings
        if first.how is _How.MERGED:
            value = UNKNOWN if self._outer is None else self._outer.lookup(name)
            more = bindings
        else:
            value = self._bound(first)
        for binding in more:
            if binding.how is not _How.MERGED or not isinstance(binding.what, ast.expr):
                return UNKNOWN
            value = merged(value, value_of(binding.what, self), Place(self.file, binding.line))
        return value

    def _bound(self, binding: _Binding) -> object:
        match binding.what:
            case ast.ClassDef(body=body):
                return Scope(body, self.module, self)
            case _Import() as wanted:
                return self.module.imported(wanted)
            case ast.expr() as expression:
                return value_of(expression, self)
        return UNKNOWN


class Module:
    """A parsed file."""

    def __init__(self, tree: ast.Module, path: Path, library: Library) -> None:
        self.tree = tree
        self.path = path
        self.file = library.walk.name(path)
        self._library = library
        self.scope = Scope(tree.body, self, None)

    def imported(self, wanted: _Import) -> object:
        """What an import stands for, `UNKNOWN` where it leads out of the project."""
        find = partial(self._library.find, self.path, level=wanted.level)
        if wanted.name is None:
            module = find(wanted.module)
        else:
            module = find(f"{wanted.module}.{wanted.name}".lstrip("."))
            owner = None if module else find(wanted.module)
            if owner is not None:
                return owner.scope.member(wanted.name)
        return UNKNOWN if module is None else module.scope


class Library:
    """The modules of a project, parsed when first asked for."""

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self._modules: dict[Path, Module | None] = {}

    @property
    def paths(self) -> Iterable[Path]:
        """The modules that were asked for."""
        return self._modules.keys()

    def parse(self, path: Path, raw: bytes) -> Module:
        """A module from its bytes. Raises `Unreadable`."""
        self._modules[path] = module = Module(_parse(raw), path, self)
        return module

    def load(self, path: Path) -> Module | None:
        """A module of the project; None where there is none, or none that can be read."""
        if path not in self._modules:
            self._modules[path] = None  # for modules that import each other
            try:
                self._modules[path] = Module(_parse(read(path)), path, self)
            except (Unreadable, ValueError):
                return None
        return self._modules[path]

    def find(self, importer: Path, module: str, *, level: int) -> Module | None:
        """The module that an import of `importer` names, by as many dots as `level`."""
        below = module.replace(".", "/")
        names = (f"{below}.py", f"{below}/__init__.py") if below else ("__init__.py",)
        for folder in self._folders(importer, level):
            for name in names:
                if (folder / name).is_file():
                    return self.load(folder / name)
        return None

    def _folders(self, importer: Path, level: int) -> Iterator[Path]:
        """Where an import starts: a relative one at its dots, another at any folder above."""
        around = [folder for folder in importer.parents if folder.is_relative_to(self.walk.root)]
        if level:
            yield from around[level - 1 : level]
            return
        yield from around
        yield self.walk.root / "src"


def _parse(raw: bytes) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a backslash in somebody's string is not our business
            return ast.parse(raw)
    except SyntaxError as error:
        line = f"line {error.lineno}" if error.lineno else "it"
        encoding = "codec" in error.msg or "encoding" in error.msg
        problem = "it is not UTF-8" if encoding else f"{line} is not Python"
    except ValueError:
        problem = "it is not Python: there is a NUL in it"
    except (RecursionError, MemoryError):
        problem = "it is nested too deeply"
    # Outside of the handlers: the parser's errors hold the text, and it may hold a secret.
    raise Unreadable(f"not read: {problem}")


class _Collector(ast.NodeVisitor):
    """What the statements of one scope do to its names, those of scopes within left out."""

    def __init__(self) -> None:
        self._found: dict[str, list[_Binding]] = {}

    @classmethod
    def collect(cls, body: Sequence[ast.stmt]) -> dict[str, list[_Binding]]:
        collector = cls()
        for statement in body:
            collector.visit(statement)
        return collector._found

    def _bind(
        self, name: str, how: _How, line: int, what: ast.expr | ast.ClassDef | _Import | None = None
    ) -> None:
        self._found.setdefault(name, []).append(_Binding(how, line, what))

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._assign(target, node.value)
        self.visit(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._assign(node.target, node.value)
            self.visit(node.value)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        match target:
            case ast.Name(id=name):
                self._bind(name, _How.SET, target.lineno, value)
            case ast.Subscript(value=ast.Name(id=name), slice=key):
                item = ast.copy_location(ast.Dict(keys=[key], values=[value]), target)
                self._bind(name, _How.MERGED, target.lineno, item)
            case _:
                self.visit(target)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        match node:
            case ast.AugAssign(target=ast.Name(id=name), op=ast.BitOr(), value=value):
                self._bind(name, _How.MERGED, node.lineno, value)
            case _:
                self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        match node.func:
            case ast.Attribute(value=ast.Name(id=name), attr="update"):
                more = ast.Call(ast.Name("dict"), node.args, node.keywords)
                self._bind(name, _How.MERGED, node.lineno, ast.copy_location(more, node))
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            name, dot, _ = alias.name.partition(".")
            if dot and alias.asname is None:  # `import a.b` binds `a`, which tells nothing
                self._bind(name, _How.OPAQUE, node.lineno)
            else:
                wanted = _Import(alias.name, None, 0)
                self._bind(alias.asname or name, _How.IMPORTED, node.lineno, wanted)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            wanted = _Import(node.module or "", alias.name, node.level)
            self._bind(alias.asname or alias.name, _How.IMPORTED, node.lineno, wanted)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._bind(node.name, _How.CLASS, node.lineno, node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._bind(node.name, _How.OPAQUE, node.lineno)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._bind(node.name, _How.OPAQUE, node.lineno)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """Its names are its own."""

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self._bind(node.id, _How.OPAQUE, node.lineno)
