"""Keys follow the code that can move a number, and nothing else."""

import textwrap

import pytest

from methods.study import closure


@pytest.fixture
def package(tmp_path, monkeypatch):
    root = tmp_path / "methods"

    def write(**files):
        for name, text in files.items():
            path = root / (name.replace("__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        closure._digest_and_imports.cache_clear()
        closure.files.cache_clear()
        closure.code_hash.cache_clear()

    monkeypatch.setattr(closure, "PACKAGE", root)
    write(
        study__errors="class RetrofitError(Exception): pass\n",
        quantize__grid='"""Grid."""\nSTEP = 2\n',
        quantize__params="DEFAULT = 1\n",
        quantize__awq="""
            from typing import TYPE_CHECKING
            from methods.quantize.grid import STEP
            if TYPE_CHECKING:
                from methods.quantize.params import DEFAULT
            def apply():
                '''Work.'''
                from .late import late
                return STEP + late()
            """,
        quantize__late="def late():\n    return 1\n",
        quantize__other="import methods.study.errors\n",
    )
    (root / "quantize" / "__init__.py").write_text("")
    yield write
    closure._digest_and_imports.cache_clear()
    closure.files.cache_clear()
    closure.code_hash.cache_clear()


def awq():
    return closure.code_hash("methods.quantize.awq")


def test_closure_holds_late_and_relative_imports_but_not_type_checking_ones(package):
    names = {path.split("/")[-1] for path in closure.files("methods.quantize.awq")}
    assert names == {"awq.py", "grid.py", "late.py", "__init__.py"}


def test_an_edit_in_an_imported_module_changes_the_hash(package):
    before = awq()
    package(quantize__grid="STEP = 3\n")
    assert awq() != before


def test_comments_docstrings_and_layout_do_not(package):
    before = awq()
    package(quantize__grid='"""Another text."""\n\n# why\nSTEP    =   2\n')
    assert awq() == before


@pytest.mark.parametrize("module", ["quantize__params", "quantize__other", "study__errors"])
def test_modules_that_cannot_move_a_number_do_not(package, module):
    before = awq()
    package(**{module: "CHANGED = True\n"})
    assert awq() == before


def test_real_methods_contain_their_own_file():
    from methods.study.registry import entries

    for kind in ("method", "measure"):
        for entry in entries(kind).values():
            module = entry.implementation.split(":")[0]
            assert module.replace(".", "/") + ".py" in closure.files(module)
