"""The code behind a run: a hash over the import closure of the module that does the work.

Snakemake does not see an edit in an imported module.  Here the syntax trees of the module and of everything of
this package that it imports, directly or not, are hashed without comments, docstrings and formatting, so an edit
that can change a number changes the key and an edit that cannot does not.  Imports under `if TYPE_CHECKING:` are
left out: they do nothing when the code runs.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

from methods.study.errors import RetrofitError

PACKAGE = Path(__file__).resolve().parents[1]
WITHOUT_EFFECT = frozenset({"__init__.py", "study/errors.py"})
"""Files (below the package) that cannot move a number: the version, and the wording of errors."""


def file_of(module: str) -> Path | None:
    """The source file of a module of this package; None for modules from elsewhere."""
    parts = module.split(".")
    if parts[0] != PACKAGE.name:
        return None
    base = PACKAGE.joinpath(*parts[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file() and path != PACKAGE.with_suffix(".py"):
            return path
    return None


class _Imports(ast.NodeVisitor):
    def __init__(self, package: str):
        self.package = package
        self.names: set[str] = set()

    def visit_If(self, node: ast.If) -> None:
        test = node.test
        name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
        for child in node.orelse if name == "TYPE_CHECKING" else [*node.body, *node.orelse]:
            self.visit(child)

    def visit_Import(self, node: ast.Import) -> None:
        self.names.update(alias.name for alias in node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        if node.level:
            anchor = self.package.split(".")[: len(self.package.split(".")) - node.level + 1]
            module = ".".join([*anchor, module] if module else anchor)
        self.names.add(module)
        self.names.update(f"{module}.{alias.name}" for alias in node.names)


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body
            first = body[0].value if body and isinstance(body[0], ast.Expr) else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                node.body = body[1:] or [ast.Pass()]
    return tree


@cache
def _digest_and_imports(path: Path) -> tuple[str, tuple[Path, ...]]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise RetrofitError(f"{path}:{error.lineno}: not valid Python: {error.msg}") from None
    module = ".".join([PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts])
    package = (
        module.removesuffix(".__init__")
        if path.name == "__init__.py"
        else module.rpartition(".")[0]
    )
    visitor = _Imports(package)
    visitor.visit(tree)
    digest = hashlib.sha256(ast.dump(_without_docstrings(tree)).encode()).hexdigest()
    found = {file for name in visitor.names if (file := file_of(name))}
    # Importing a module runs the __init__ files above it.
    found.update(
        init
        for parent in path.parents
        if (init := parent / "__init__.py").is_file() and PACKAGE in init.parents
    )
    return digest, tuple(sorted(found - {path}))


@cache
def files(module: str) -> dict[str, str]:
    """{path relative to the package's parent: digest} of the import closure of `module`."""
    start = file_of(module)
    if start is None:
        raise RetrofitError(f"there is no module {module} in {PACKAGE}")
    seen: dict[Path, str] = {}
    todo = [start]
    while todo:
        path = todo.pop()
        if path not in seen and path.relative_to(PACKAGE).as_posix() not in WITHOUT_EFFECT:
            digest, imports = _digest_and_imports(path)
            seen[path] = digest
            todo.extend(imports)
    return {path.relative_to(PACKAGE.parent).as_posix(): seen[path] for path in sorted(seen)}


@cache
def code_hash(module: str) -> str:
    """16 hex digits over `files(module)`."""
    lines = "\n".join(f"{path} {digest}" for path, digest in files(module).items())
    return hashlib.sha256(lines.encode()).hexdigest()[:16]
