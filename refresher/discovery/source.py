"""`ContainerImage(…)`, `.from_dockerfile(…)` and `.from_dockerfile_str(…)` in Python."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from refresher.discovery.constants import UNKNOWN, Entries, Entry, merged, value_of
from refresher.discovery.dockerfiles import images_in, images_of
from refresher.discovery.findings import Password, Place, Use
from refresher.discovery.passwords import COMPUTED, password_of
from refresher.discovery.scopes import Definition, Module, Scope
from refresher.discovery.walking import Unreadable

_CLASS = "ContainerImage"
_MAKERS = frozenset({"from_dockerfile", "from_dockerfile_str"})

#: The text of the Dockerfile, or its path, goes by these names and comes first.
_TEXTS = ("text", "dockerfile_str", "path")
#: Where the constructor takes its registries when they are given without a name.
_REGISTRIES_AT = 2


def uses(module: Module, root: Path) -> list[Use]:
    """The registries of the images that a module makes. Raises `Unreadable`."""
    try:
        reader = _Reader(module, root)
        reader.visit(module.tree)
    except RecursionError:
        raise Unreadable("not read: it is nested too deeply") from None
    return reader.found


class _Reader(ast.NodeVisitor):
    """Goes through a module with the names in view and the app at hand."""

    def __init__(self, module: Module, root: Path) -> None:
        self.found: list[Use] = []
        self._module = module
        self._root = root
        self._scope = module.scope
        self._owner: str | None = None
        self._aliases = _aliases(module.tree)
        self._wearers = _wearers(module.tree)

    # --- where we are ---------------------------------------------------------------------------

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        with self._within(Scope(node.body, self._module, self._scope), _app(node)):
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function(node)

    def _function(self, node: Definition) -> None:
        scope = Scope(node.body, self._module, self._scope)
        scope.hide(each.arg for each in ast.walk(node.args) if isinstance(each, ast.arg))
        with self._within(scope, node.name):
            self.generic_visit(node)

    @contextmanager
    def _within(self, scope: Scope, name: str) -> Iterator[None]:
        before = self._scope, self._owner
        self._scope, self._owner = scope, self._owner or name
        try:
            yield
        finally:
            self._scope, self._owner = before

    def visit_Assign(self, node: ast.Assign) -> None:
        self._assignment(node, node.targets[0] if len(node.targets) == 1 else None)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._assignment(node, node.target)

    def _assignment(self, node: ast.Assign | ast.AnnAssign, target: ast.expr | None) -> None:
        """An image with a name at module level belongs to the apps that name it."""
        call = node.value
        wearers = self._wearers.get(target.id) if isinstance(target, ast.Name) else None
        if self._owner is None and wearers and isinstance(call, ast.Call):
            for app in wearers if self._makes_image(call) else ():
                self._image(call, app)
        else:
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if self._makes_image(node):
            self._image(node, self._owner)
        self.generic_visit(node)

    def _makes_image(self, node: ast.Call) -> bool:
        match node.func:
            case ast.Attribute(value=maker, attr=attr) if attr in _MAKERS:
                return self._is_class(maker)
            case other:
                return self._is_class(other)

    def _is_class(self, node: ast.expr) -> bool:
        match node:
            case ast.Name(id=name):
                return name in self._aliases
            case ast.Attribute(attr=name):
                return name == _CLASS
        return False

    # --- an image -------------------------------------------------------------------------------

    def _image(self, node: ast.Call, app: str | None) -> None:
        keywords = self._keywords(node)
        given = keywords.get("registries")
        if given is None:
            return
        name = app or self._module.path.stem
        dockerfile, images = self._images(node, keywords)
        if not isinstance(given.value, dict):
            self.found.append(Use(name, given.place, None, None, COMPUTED, images))
            return
        for key, entry in given.value.items():
            use = _use(name, key, entry, images)
            self.found.append(replace(use, dockerfile=dockerfile))

    def _keywords(self, node: ast.Call) -> Entries:
        """The arguments by name, those in `**DICTIONARY` as well."""
        place = Place(self._module.file, node.lineno)
        given: Entries = {}
        is_constructor = self._is_class(node.func)
        if is_constructor and len(node.args) > _REGISTRIES_AT:
            given["registries"] = self._entry(node.args[_REGISTRIES_AT])
        for keyword in node.keywords:
            if keyword.arg is not None:
                given[keyword.arg] = self._entry(keyword.value)
                continue
            spread = value_of(keyword.value, self._scope)
            both = merged(given, spread, place)
            given = both if isinstance(both, dict) else given
        return given

    def _entry(self, node: ast.expr) -> Entry:
        value = value_of(node, self._scope)
        return Entry(value, Place(self._module.file, node.lineno))

    def _images(self, node: ast.Call, keywords: Entries) -> tuple[Path | None, tuple[str, ...]]:
        """What the image starts from, and the file that says so, if it is one."""
        texts = [keywords[name].value for name in _TEXTS if name in keywords]
        texts += [value_of(argument, self._scope) for argument in node.args[:1]]
        text = next((text for text in texts if isinstance(text, str)), None)
        if text is None:
            return None, ()
        if not (isinstance(node.func, ast.Attribute) and node.func.attr == "from_dockerfile"):
            return None, images_of(text)
        dockerfile = self._dockerfile(text)
        return dockerfile, images_in(dockerfile)

    def _dockerfile(self, path: str) -> Path:
        """fal takes it from where it is run, which is the project's folder as a rule."""
        beside = self._module.path.parent / path
        return beside if beside.is_file() else self._root / path


def _use(app: str, key: object, entry: Entry, images: tuple[str, ...]) -> Use:
    login = entry.value
    if not isinstance(key, str):
        return Use(app, entry.place, None, None, COMPUTED, images)
    if not isinstance(login, dict):
        return Use(
            app, entry.place, key, None, _password(login if login is UNKNOWN else None), images
        )
    username = _field(login, "username")
    return Use(
        app=app,
        place=entry.place,
        key=key,
        username=username if isinstance(username, str) else None,
        password=_password(_field(login, "password")),
        images=images,
    )


def _password(value: object) -> Password:
    return COMPUTED if value is UNKNOWN else password_of(value)


def _field(login: Entries, name: str) -> object:
    """A value of a login; None where it is missing for certain."""
    if name in login:
        return login[name].value
    return UNKNOWN if UNKNOWN in login else None


# --- names that a module gives ------------------------------------------------------------------


def _aliases(tree: ast.Module) -> frozenset[str]:
    """What a module calls the class: its own name, and others that it gives to it."""
    found = {_CLASS}
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(names=names):
                found |= {each.asname for each in names if each.name == _CLASS and each.asname}
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Attribute(attr=attr)):
                found |= {name} if attr == _CLASS else set()
    return frozenset(found)


def _wearers(tree: ast.Module) -> dict[str, list[str]]:
    """The apps that say `image = NAME`, by that name: classes, and functions in their decorator."""
    found: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        for image in _worn(node):
            if isinstance(image, ast.Name) and isinstance(node, ast.ClassDef | Definition):
                found.setdefault(image.id, []).append(_app(node))
    return found


def _worn(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.ClassDef):
        for statement in node.body:
            match statement:
                case ast.Assign(targets=[ast.Name(id="image")], value=value):
                    yield value
                case ast.AnnAssign(target=ast.Name(id="image"), value=ast.expr() as value):
                    yield value
    elif isinstance(node, Definition):
        for call in node.decorator_list:
            if isinstance(call, ast.Call):
                yield from (each.value for each in call.keywords if each.arg == "image")


def _app(node: ast.ClassDef | Definition) -> str:
    """The name that a class gives its app, else its own."""
    if isinstance(node, ast.ClassDef):
        for keyword in node.keywords:
            if keyword.arg == "name" and isinstance(keyword.value, ast.Constant):
                return str(keyword.value.value)
    return node.name
