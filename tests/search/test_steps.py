"""The steps of a study on small data: what they leave, that it loads, and that a kill costs nothing."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.datasets import load_digits
from torch import nn

from methods.data.kinds import Images, Table, Text
from methods.measure.classification import measure as classify
from methods.measure.params import Classification, Size
from methods.measure.size import measure as weigh
from methods.run.context import Context
from methods.search import random_search, retrain, tanglenas, two_stage
from methods.search.choices import genotype
from methods.search.footprint import macs, saved_bytes
from methods.search.found import load_candidates, load_searched, load_trained
from methods.search.params import (
    CellSpace,
    ChooseArchitecture,
    LanguageSpace,
    MacroSpace,
    RandomArchitectures,
    Recipe,
    RetrainArchitecture,
    TangleNAS,
    TwoStageSearch,
)
from methods.search.tasks import ByteTask
from methods.study.errors import RetrofitError
from tests.fit.killed import resumed

MACRO = MacroSpace(widths=[[2, 8], [4, 8], [4, 8], [8, 12]], kernels=[3, 5])
LANGUAGE = LanguageSpace(embeddings=[8, 16], heads=[1, 2], ratios=[1, 2], depths=[1, 2], length=16)
RECIPE = Recipe(epochs=2, batch=32, learning_rate=0.01)


def digits():
    found = load_digits()  # 8 x 8 pixels of 0 .. 16
    x, y = (found.images * 15).astype(np.uint8), found.target.astype(np.int64)
    classes = [str(n) for n in range(10)]
    return {
        "train": [Images("digits.train", x[:600], y[:600], classes)],
        "test": [Images("digits.test", x[1000:1300], y[1000:1300], classes)],
    }


def text():
    words = ["whale ", "ship ", "sea ", "the "]
    order = np.random.default_rng(0).integers(4, size=1200)
    document = "".join(words[i] for i in order)
    return {
        "train": [Text("t.train", [document], ["a"])],
        "test": [Text("t.test", [document[:500]], ["a"])],
    }


DIGITS, TEXT = digits(), text()


def settings(**changes):
    values = {"space": MACRO, "epochs": 2, "batch": 32, "optimizer": "adamw"}
    rates = {"learning_rate": 0.01, "architecture_learning_rate": 0.02}
    return TangleNAS(**{**values, **rates, "calibration_batches": 2, **changes})


def searched(data=DIGITS, **changes):
    context = Context()
    return tanglenas.apply(None, data, settings(**changes), context), context.history


def retrained(found, data=DIGITS, **changes):
    context = Context()
    params = RetrainArchitecture(recipe=RECIPE, **changes)
    return retrain.apply(found, data, params, context), context.history


@pytest.mark.parametrize(
    ("space", "data"),
    [(MACRO, DIGITS), (CellSpace(channels=4, shrink=2), DIGITS), (LANGUAGE, TEXT)],
    ids=["macro", "cell", "language"],
)
def test_a_search_leaves_its_super_network_and_retraining_the_found_architecture(
    space, data, tmp_path
):
    found, history = searched(data, space=space)
    rows = [row for row in history if "epoch" in row]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[-1]["found"] == found.architecture == found.supernet.architecture()
    assert 0 < rows[-1]["entropy"] <= 1
    assert found.metrics["found/accuracy"].value == rows[-1]["found_accuracy"]
    found.save(tmp_path / "searched")
    again = load_searched(tmp_path / "searched")
    for name, tensor in found.supernet.state_dict().items():
        assert torch.equal(tensor, again.supernet.state_dict()[name]), name
    assert (again.architecture, again.epochs) == (found.architecture, found.epochs)

    network, rows = retrained(again, data)
    assert rows[-1]["loss"] < next(row["loss"] for row in rows if "loss" in row)
    assert [row["epoch"] for row in rows if "epoch" in row] == [1, 2]
    assert network.metrics["search/saved_bytes"] == found.metrics["saved_bytes"]
    assert network.metrics["accuracy"].n > 10
    network.save(tmp_path / "trained")
    loaded = load_trained(tmp_path / "trained")
    x = data["test"][0].x if space.kind != "language" else np.arange(64).reshape(4, 16) % 250
    assert torch.equal(loaded.logits(x), network.logits(x))
    assert weigh(loaded, {}, Size(), Context())["parameters"].value == (
        network.metrics["parameters"].value
    )
    if space.kind != "language":
        measured = classify(loaded, data, Classification(), Context())
        assert measured["accuracy"].value == pytest.approx(network.metrics["accuracy"].value)


def test_a_killed_search_resumes_to_the_same_bits(tmp_path, monkeypatch):
    """Dirichlet draws, Adam's moments on the choices, and batch orders all continue."""
    expected, history = searched()
    found, again = resumed(
        lambda c: tanglenas.apply(None, DIGITS, settings(), c), 10, tmp_path, monkeypatch
    )
    for name, tensor in expected.supernet.state_dict().items():
        assert torch.equal(tensor, found.supernet.state_dict()[name]), name
    assert again == history
    without_clock = {n: m for n, m in expected.metrics.items() if m.unit != "s"}
    assert without_clock == {n: m for n, m in found.metrics.items() if m.unit != "s"}


def test_a_killed_retraining_and_a_killed_random_search_resume_too(tmp_path, monkeypatch):
    found, _ = searched()
    expected, history = retrained(found)
    network, again = resumed(
        lambda c: retrain.apply(found, DIGITS, RetrainArchitecture(recipe=RECIPE), c),
        17,
        tmp_path / "retrain",
        monkeypatch,
    )
    assert again == history
    for name, tensor in expected.module.state_dict().items():
        assert torch.equal(tensor, network.module.state_dict()[name]), name

    params = RandomArchitectures(space=MACRO, recipe=RECIPE, budget=4)
    context = Context()
    whole = random_search.apply(None, DIGITS, params, context)
    again, rows = resumed(
        lambda c: random_search.apply(None, DIGITS, params, c), 2, tmp_path / "r", monkeypatch
    )
    assert again.scores == whole.scores
    assert rows == context.history
    pairs = zip(whole.module.parameters(), again.module.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("sampler", ["darts", "darts_sparsemax", "gdas", "spos"])
def test_every_sampler_searches(sampler):
    found, history = searched(sampler=sampler, epochs=1)
    alphas = torch.stack(list(found.supernet.alphas))
    moved = alphas.abs().max() > 0.01
    assert bool(moved) == (sampler != "spos")
    assert history[-1]["found"] == found.architecture


def test_sharing_costs_what_it_should():
    """Superposition keeps one activation where mixtures of outputs keep one for each combination."""
    runs = {
        sharing: searched(sharing=sharing, epochs=1)[0].metrics
        for sharing in ("entangled", "outputs", "separate")
    }
    saved = {sharing: m["saved_bytes"].value for sharing, m in runs.items()}
    count = {sharing: m["supernet_parameters"].value for sharing, m in runs.items()}
    products = {sharing: m["supernet_macs"].value for sharing, m in runs.items()}
    assert saved["entangled"] < 0.7 * saved["outputs"]
    assert saved["outputs"] == pytest.approx(saved["separate"], rel=0.02)
    assert count["entangled"] == count["outputs"] < 0.6 * count["separate"]
    assert products["entangled"] < 0.7 * products["outputs"]


def test_saved_bytes_are_those_of_the_activations():
    layer = nn.Linear(4, 8)
    x = torch.zeros(16, 4)

    def loss():
        return layer(x).exp().sum()

    # The input of the layer, and the output of exp: each once, and no parameter.
    assert saved_bytes(loss, layer) == 16 * 4 * 4 + 16 * 8 * 4
    assert macs(layer, x[:1]) == 32


@pytest.mark.parametrize("strategy", ["random", "evolution"])
def test_two_stages_choose_the_best_of_what_they_judged(strategy):
    found, _ = searched(sampler="spos", epochs=1)
    params = TwoStageSearch(
        strategy=strategy, population=6, parents=3, crossovers=2, mutations=2, rounds=2,
        items=100, calibration_batches=1,
    )  # fmt: skip
    context = Context()
    chosen = two_stage.apply(found, DIGITS, params, context)
    judged = context.history
    assert chosen.metrics["judged"].value == len(judged) <= 10
    assert judged[-1]["best"] == min(row["best"] for row in judged)
    assert chosen.supernet.space.check(chosen.architecture) == chosen.architecture


def test_evolution_beats_random_search_on_a_known_landscape():
    """Loss: how many decisions differ from a hidden architecture; equal numbers of judgements."""
    from methods.search.choices import Choice, Space

    space = Space.of(Choice(f"d{n}", tuple(range(4))) for n in range(8))
    wins = []
    for seed in range(6):
        target = space.random(np.random.default_rng(1000 + seed))

        def loss(a, target=target):
            return float(sum(a[name] != target[name] for name in a))

        evolved = two_stage.Memory(loss, Context())
        params = TwoStageSearch(rounds=6)
        two_stage.evolve(space, evolved, params, np.random.default_rng(seed))
        drawn = two_stage.Memory(loss, Context())
        two_stage.random_search(space, drawn, len(evolved.known), np.random.default_rng(seed))
        wins.append(loss(evolved.best(1)[0]) < loss(drawn.best(1)[0]))
    assert sum(wins) >= 5


def test_random_search_spends_its_budget_and_is_chosen_from_by_held_out_items(tmp_path):
    params = RandomArchitectures(space=MACRO, recipe=RECIPE, budget=6)
    every = random_search.apply(None, DIGITS, params, Context())
    assert len(every.trained) == every.metrics["candidates"].value >= 3
    assert 3 < every.metrics["budget"].value <= 6
    assert len({genotype(one.architecture) for one in every.trained}) > 1
    every.save(tmp_path)
    again = load_candidates(tmp_path)
    x = DIGITS["test"][0].x
    for one, other in zip(every.trained, again.trained, strict=True):
        assert torch.equal(one.logits(x), other.logits(x))
    best = random_search.choose(again, DIGITS, ChooseArchitecture(), Context())
    scores = [score["validation/cross_entropy"]["value"] for score in every.scores]
    assert best.metrics["validation/cross_entropy"].value == min(scores)
    mean = random_search.choose(again, DIGITS, ChooseArchitecture(by="mean"), Context())
    accuracies = [score["accuracy"]["value"] for score in every.scores]
    assert mean.metrics["accuracy"].value == pytest.approx(np.mean(accuracies))


def test_retraining_takes_the_architecture_of_an_earlier_epoch():
    found, _ = searched()
    found.epochs[0] = {**found.epochs[0], "width.1": 2, "kernel.1": 3}
    network, _ = retrained(found, after=1)
    assert network.architecture == found.epochs[0]
    with pytest.raises(RetrofitError, match="after: 5, but the search had 2 epochs"):
        retrained(found, after=5)


def test_bytes_are_predicted_one_after_another():
    task = ByteTask.of(Text("t", ["abcdef", "gh"], ["", ""]), 4, "cpu")
    assert bytes(task.windows[0].tolist()) == b"abcde"
    assert bytes(task.windows[1].tolist()) == b"ef\n\ng"
    with pytest.raises(RetrofitError, match="has 2 bytes: less than a window of 4"):
        ByteTask.of(Text("t", ["ab"], [""]), 4, "cpu")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MacroSpace(kernels=[3, 4]), r"kernels \[4\] are even"),
        (lambda: MacroSpace(widths=[[2], [2], [2], []]), "at least 1 item"),
        (lambda: MacroSpace(widths=[[2, 2], [2], [2], [2]]), "width.1' has an option twice"),
        (lambda: MacroSpace(widths=[[0], [2], [2], [2]]), "sizes are positive"),
        (lambda: LanguageSpace(heads=[2, 5]), "5 heads do not divide an embedding of 96"),
        (lambda: LanguageSpace(embeddings=[6], heads=[2], ratios=[1.2]), "no whole number"),
        (lambda: TangleNAS(sampler="drnass"), "Input should be 'darts'"),
        (lambda: TwoStageSearch(parents=40), "at most the population, 30"),
        (lambda: TwoStageSearch(crossovers=0, mutations=0), "needs children"),
    ],
)
def test_settings_that_make_no_sense_are_refused_when_planning(make, words):
    with pytest.raises(ValidationError, match=words):
        make()


def test_data_and_steps_of_another_kind_are_refused():
    table = Table("soup.train", np.zeros((3, 2)), np.zeros(3, np.int64), ["a", "b"], ["c"])
    with pytest.raises(RetrofitError, match=r"searched on images, and soup\.train has none"):
        searched({"train": [table]})
    with pytest.raises(RetrofitError, match=r"searched on text, and digits\.train has none"):
        searched(space=LANGUAGE)
    found, _ = searched(epochs=1)
    network, _ = retrained(found)
    with pytest.raises(RetrofitError, match="retrain_architecture follows tanglenas"):
        retrained(network)
    with pytest.raises(RetrofitError, match="two_stage_search follows tanglenas"):
        two_stage.apply(network, DIGITS, TwoStageSearch(), Context())
    with pytest.raises(RetrofitError, match="choose_architecture follows random_architectures"):
        random_search.choose(network, DIGITS, ChooseArchitecture(), Context())


def test_damaged_artifacts_are_named(tmp_path):
    found, _ = searched(epochs=1)
    found.save(tmp_path)
    (tmp_path / "config.json").write_text(
        (tmp_path / "config.json").read_text().replace('"widths"', '"wides"')
    )
    with pytest.raises(RetrofitError, match="does not fit the space"):
        load_searched(tmp_path)
    with pytest.raises(RetrofitError, match="holds no search result"):
        load_searched(tmp_path / "nowhere")
