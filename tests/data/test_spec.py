"""Declarations: what the shipped ones promise, and how a wrong one is refused."""

from pathlib import Path

import pytest
import yaml

from methods.data import lock, spec
from methods.study.errors import RetrofitError, SpecError

ROOT = Path(__file__).resolve().parents[2] / "data"
SHIPPED = spec.declared(ROOT)


def declaration(**changes):
    return {
        "title": "t",
        "licence": "l",
        "description": "d",
        "files": {"PreDiabetes.csv": {"sha256": "0" * 64}},
        "sources": [
            {"kind": "pypi", "package": "p", "version": "1", "files": {"PreDiabetes.csv": "p/a"}}
        ],
        "builder": {"name": "prediabetes"},
        **changes,
    }


def found(tmp_path, **changes):
    folder = tmp_path / "configs" / "datasets"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(yaml.safe_dump(declaration(**changes)))
    return spec.find("mine", tmp_path / "data")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_sets_are_pinned_and_their_lock_belongs_to_the_declaration(name):
    declared = spec.find(name, ROOT)
    assert declared.splits
    for source in declared.sources:
        if source.kind != "path":
            assert all(declared.files[file].sha256 for file in source.files)
    if name in lock.locked(ROOT):
        assert lock.data_key(name, ROOT)["content"].endswith(".dir")


def test_where_files_are_got_does_not_change_what_is_built(tmp_path):
    first = found(tmp_path / "a")
    other = [{"kind": "url", "files": {"PreDiabetes.csv": "https://example.org/a"}}]
    assert found(tmp_path / "b", sources=other).declaration == first.declaration
    pins = {"PreDiabetes.csv": {"sha256": "1" * 64}}
    assert found(tmp_path / "c", files=pins).declaration != first.declaration
    cutoffs = {"name": "prediabetes", "cutoffs": [30]}
    assert found(tmp_path / "d", builder=cutoffs).declaration != first.declaration


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"licens": "MIT"}, "unknown key 'licens'; did you mean 'licence'"),
        (
            {"builder": {"name": "prediabets"}},
            "no builder 'prediabets'; did you mean 'prediabetes'",
        ),
        ({"files": {"PreDiabetes.csv": {}}}, "comes over the network and needs a sha256"),
        ({"files": {"PreDiabetes.csv": {"sha256": "abc"}}}, "sha256"),
        ({"files": {"PreDiabetes.cvs": {"sha256": "0" * 64}}}, "did you mean 'PreDiabetes.cvs'"),
        ({"sources": [{"kind": "pipy", "files": {"PreDiabetes.csv": "a"}}]}, "pipy"),
        ({"sources": [{"kind": "url", "files": {"PreDiabetes.csv": "ftp://x/a"}}]}, "no http"),
    ],
)
def test_a_wrong_declaration_is_refused_by_file_and_key(tmp_path, changes, message):
    with pytest.raises(SpecError, match=message) as error:
        found(tmp_path, **changes)
    assert "mine.yaml" in str(error.value)


def test_a_source_must_have_what_the_builder_needs(tmp_path):
    pins = {name: {"sha256": "0" * 64} for name in ("PreDiabetes.csv", "other")}
    source = {"kind": "npm", "package": "p", "version": "1", "files": {"other": "package/a"}}
    with pytest.raises(SpecError, match=r"has \['other'\]; the builder needs"):
        found(tmp_path, files=pins, sources=[source])


def test_references_are_checked_before_anything_is_built():
    spec.check_reference("wikipedia.train", ROOT)
    with pytest.raises(RetrofitError, match="did you mean 'train'"):
        spec.check_reference("wikipedia.trian", ROOT)
    with pytest.raises(RetrofitError, match="did you mean 'wikipedia'"):
        spec.check_reference("wikipeda.train", ROOT)
