"""The three tasks against trials and statistics recorded from neurogym 2.3.1, and images by lines."""

import numpy as np
import pytest

from methods.dynamics.rich_lazy import tasks
from methods.dynamics.rich_lazy.memory import SHAPES
from tests.dynamics.rich_lazy import golden

NAMES = ["two_alternative", "delayed_match", "context"]


def same_draws(name):
    """Our observations and labels for what the package drew in its trials."""
    known = golden.neurogym(name)
    draw = {k.removeprefix("draw/"): v for k, v in known.items() if k.startswith("draw/")}
    choice = draw["ground_truth"].astype(int)
    if name == "two_alternative":
        return tasks.two_alternative(choice, draw["coh"], known["noise"])
    if name == "delayed_match":
        place = np.rint(draw["sample_theta"] / np.pi).astype(int)
        return tasks.delayed_match(choice, place, known["noise"])
    other, cue = draw["other_choice"].astype(int), draw["context"].astype(int)
    coherence = np.stack([draw["coh_1"], draw["coh_2"]], 1)
    return tasks.context(choice, other, cue, coherence, known["noise"])


@pytest.mark.parametrize("name", NAMES)
def test_the_same_draws_give_the_same_observations_and_labels(name):
    known = golden.neurogym(name)
    x, labels = same_draws(name)
    np.testing.assert_allclose(x.transpose(1, 0, 2), known["obs"], atol=1e-6)
    np.testing.assert_array_equal(labels.T, known["labels"])
    assert x.dtype == np.float32
    assert labels.dtype == np.int64
    assert len(np.unique(known["labels"][:, -1])) == 2


@pytest.mark.parametrize("name", NAMES)
def test_batches_have_the_packages_statistics(name):
    known, n = golden.neurogym(name), 20_000
    x, labels = tasks.TASKS[name](n, np.random.default_rng(0))
    shape = SHAPES[name]
    assert x.shape == (shape.steps, n, shape.inputs)
    assert labels.shape == (shape.read, n)
    both = 1 / n + 1 / int(known["stat/n"])
    sd = known["stat/sd"]
    # Five standard errors of a difference; channels that never move must be equal.
    assert (np.abs(x.mean(1) - known["stat/mean"]) <= 5 * sd * np.sqrt(both) + 1e-6).all()
    assert (np.abs(x.std(1) - sd) <= 5 * sd * np.sqrt(both) + 1e-6).all()
    share = np.stack([(labels == k).mean(1) for k in range(3)], 1)
    assert (np.abs(share - known["stat/label_share"]) <= 2.5 * np.sqrt(both)).all()
    for index, label in enumerate((1, 2)):
        mean = x[:, labels[-1] == label].mean(1)
        gap = np.abs(mean - known["stat/mean_by_label"][index])
        assert (gap <= 5 * sd * np.sqrt(2 * both) + 1e-6).all()


def test_coherences_are_the_packages():
    known = golden.neurogym("two_alternative")["draw/coh"]
    assert set(known) <= set(tasks.COHERENCES)
    both = np.concatenate([golden.neurogym("context")[f"draw/coh_{k}"] for k in (1, 2)])
    assert set(both) <= set(tasks.CONTEXT_COHERENCES)


def test_the_delayed_match_can_only_be_told_from_both_stimuli():
    x, labels = tasks.draw_delayed_match(20_000, np.random.default_rng(1))
    sample, test = (x[step, :, 1] > x[step, :, 2] for step in (0, tasks.TEST))
    assert ((sample == test) == (labels[-1] == 1)).mean() > 0.99
    for single in (sample, test):
        assert abs(single[labels[-1] == 1].mean() - 0.5) < 0.02


def test_the_irrelevant_modality_says_nothing_of_the_choice():
    x, labels = tasks.draw_context(20_000, np.random.default_rng(2))
    cue = x[0, :, 6].astype(int)
    rows = np.arange(len(cue))
    shown = x[:2, :, 1:5].mean(0).reshape(-1, 2, 2)
    for offset, expected in ((0, 0.7), (1, 0.0)):
        difference = shown[rows, (cue + offset) % 2, 0] - shown[rows, (cue + offset) % 2, 1]
        correlation = np.corrcoef(difference, labels[-1] == 1)[0, 1]
        assert correlation == pytest.approx(expected, abs=0.2 if expected else 0.03)


def test_images_become_their_lines():
    x = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    draw, shape = tasks.lines(x, np.array([1, 0]), 5)
    assert (shape.steps, shape.inputs, shape.outputs, shape.read) == (3, 4, 5, 1)
    sequences, labels = draw(50, np.random.default_rng(0))
    assert sequences.shape == (3, 50, 4)
    assert labels.shape == (1, 50)
    for n in range(50):
        image = 1 - labels[0, n]
        np.testing.assert_allclose(sequences[:, n] * 255, x[image], rtol=1e-6)
