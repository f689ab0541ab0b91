"""A name that refers to nothing is an error with its line and the nearest match, in every tier."""

import pytest

from methods.study.errors import SpecError
from methods.study.loading import load_study

STUDY = """
study: names
title: Names
base: smollm2-135m
variants:
  dense: []
  rtn-w4: [{method: rtn, bits: 4}]
  rtn-w3: [{method: rtn, bits: 3}]
settings:
  one: {only: [dense, "rtn-*"]}
seeds: {"*": 1, "rtn-*": 2}
measure: [size]
tiers: {quick: {only: [dense]}}
tables:
  main:
    title: Size
    rows: [dense, "rtn-w?"]
    settings: [one]
    columns:
      - {metric: size/deployed, relative_to: dense}
      - {paper: Theirs, source: Table 1, values: {rtn-w4: 1.0, one/rtn-w3: 2.0}}
figures:
  bars: {title: Size, kind: bars, y: size/deployed, rows: [dense, "rtn-*"]}
claims:
  smaller: {text: t, source: s, check: {metric: size/deployed, better: [rtn-w4], than: [dense]}}
"""


def load(tmp_path, text, tier="quick"):
    path = tmp_path / "names.yaml"
    path.write_text(text)
    return load_study(path, tier)


def test_names_of_variants_that_a_tier_leaves_out_are_fine(tmp_path):
    assert list(load(tmp_path, STUDY).variants) == ["dense"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'rows: [dense, "rtn-w?"]',
            'rows: [dense, "rnt-w?"]',
            r"names.yaml:17: tables.main.rows: 'rnt-w\?'",
        ),
        (
            "relative_to: dense",
            "relative_to: dens",
            "columns.relative_to: 'dens' matches no variant; did you mean 'dense'",
        ),
        (
            "settings: [one]",
            "settings: [on]",
            "tables.main.settings: 'on' matches no setting; did you mean 'one'",
        ),
        ("one/rtn-w3: 2.0", "one/rtn-w9: 2.0", "values: 'rtn-w9' matches no variant"),
        ('rows: [dense, "rtn-*"]}', 'rows: [dense, "gptq-*"]}', "figures.bars.rows: 'gptq-\\*'"),
        (
            "better: [rtn-w4]",
            "better: [awq-w4]",
            "names.yaml:25: claims.smaller.check.better: 'awq-w4'",
        ),
        ('"rtn-*": 2', '"foo*": 2', r"names.yaml:11: seeds.foo\*: 'foo\*' matches no variant"),
        ('only: [dense, "rtn-*"]}', "only: [dens]}", "settings.one.only: 'dens'"),
    ],
)
def test_a_wrong_name_is_refused(tmp_path, old, new, message):
    assert old in STUDY
    with pytest.raises(SpecError, match=message):
        load(tmp_path, STUDY.replace(old, new))


@pytest.mark.parametrize("seeds", ["0", "-1", '{"*": 0}', '{"*": -3}'])
def test_seeds_are_counted_from_one(tmp_path, seeds):
    with pytest.raises(SpecError, match=r"names.yaml:11: seeds.*greater than or equal to 1"):
        load(tmp_path, STUDY.replace('seeds: {"*": 1, "rtn-*": 2}', f"seeds: {seeds}"))


def test_less_text_than_one_window_is_refused(tmp_path):
    data = "data: {calibration: {set: wikipedia.train, tokens: 256, length: 512}}\nmeasure:"
    with pytest.raises(
        SpecError, match=r"data.calibration.*256 tokens are less than one window of 512"
    ):
        load(tmp_path, STUDY.replace("measure:", data))


def test_a_setting_takes_only_the_measures_that_it_names(tmp_path):
    from methods.study.expansion import plan

    def measured(patterns):
        path = tmp_path / "measured.yaml"
        text = STUDY.replace("measure: [size]", "measure: [size, decode_latency]")
        path.write_text(text.replace('"rtn-*"]}\nseeds', f'"rtn-*"], measure: {patterns}}}\nseeds'))
        return {
            run.slug.rpartition(".")[2] for cell in plan(path).cells for run in cell.evaluations
        }

    assert measured('["*"]') == {"size", "decode_latency"}
    assert measured("[size]") == {"size"}
    with pytest.raises(SpecError, match="'siez' matches no measure; did you mean 'size'"):
        measured("[siez]")
