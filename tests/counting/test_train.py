"""Training: resumed to the same bits, chosen on held-out images, and clear about what it cannot use."""

import numpy as np
import pytest
import torch

from methods.counting import maps as density_maps
from methods.counting import network as networks
from methods.counting import train
from methods.counting.crops import random_crop
from methods.counting.params import UniformDensity
from methods.counting.uniform import apply as uniform
from methods.data.kinds import Scenes
from methods.run.context import Context
from methods.study.errors import RetrofitError
from tests.counting.scenes import MAPS, params, scenes
from tests.fit.killed import resumed


def run(parameters=None, context=None, data=None):
    data = data or {"train": [scenes()]}
    made = density_maps.apply(None, data, MAPS, Context())
    return train.apply(made, data, parameters or params(), context or Context())


def state(counter):
    return counter.module.state_dict()


@pytest.mark.parametrize(
    "network",
    [
        {"architecture": "hmode", "width": 2, "second_gate": 16, "positive": "softplus"},
        {"architecture": "csrnet", "width": 2, "positive": "softplus"},
    ],
)
def test_a_killed_run_continues_to_the_same_bits(network, tmp_path, monkeypatch):
    chosen = params(network=network, loss={"relative": 0.5})
    whole = Context()
    expected = run(chosen, whole)
    for step in (3, 5):
        found, history = resumed(
            lambda context: run(chosen, context), step, tmp_path / str(step), monkeypatch
        )
        assert history == whole.history
        assert found.metrics == expected.metrics
        for name, tensor in state(expected).items():
            assert torch.equal(state(found)[name], tensor), name


def test_the_artifact_counts_the_same(tmp_path):
    counter = run()
    counter.save(tmp_path)
    image = scenes(seed=3).images[4]
    assert networks.load(tmp_path).count(image) == counter.count(image)


def test_the_epoch_is_chosen_on_held_out_images_and_never_on_the_test(monkeypatch):
    seen = []
    errors = iter([3.0, 1.0, 2.0])
    original = train.validation_mae

    def noted(counter, held):
        seen.append(held.titles)
        original(counter, held)
        return next(errors)

    monkeypatch.setattr(train, "validation_mae", noted)
    data = {"train": [scenes()], "test": [scenes(seed=9, name="test")]}
    counter = run(params(pictures=2), data=data)
    assert counter.metrics["chosen_epoch"].value == 2
    assert counter.metrics["validation_mae"].value == 1.0
    assert seen == [seen[0]] * 3
    assert len(seen[0]) == 2
    assert not any("test" in title for titles in seen for title in titles)
    # the weights are those of that epoch: a run that ends there has them too
    monkeypatch.setattr(train, "validation_mae", lambda counter, held: 1.0)
    shorter = run(params(epochs=2, milestones=[], check_from=1))
    longer = run(params(epochs=2, milestones=[], check_from=1, learning_rate=2e-3))
    names = [n for n, p in counter.module.named_parameters()]
    assert all(torch.equal(state(counter)[n], state(shorter)[n]) for n in names)
    assert not all(torch.equal(state(counter)[n], state(longer)[n]) for n in names)


def test_the_test_set_changes_nothing_but_the_pictures():
    alone = run()
    data = {"train": [scenes()], "test": [scenes(seed=8, name="test")]}
    beside = run(params(pictures=2), data=data)
    assert len(beside.pictures) == 2
    assert all(
        torch.equal(a, b)
        for a, b in zip(state(alone).values(), state(beside).values(), strict=True)
    )


def test_it_learns_to_count_squares():
    data = {"train": [scenes(24, seed=1)], "validation": [scenes(10, seed=2)]}
    trained = run(
        params(
            epochs=30,
            milestones=[20],
            learning_rate=5e-3,
            batch=4,
            check_from=15,
            network={
                "architecture": "hmode",
                "width": 4,
                "second_gate": 16,
                "positive": "softplus",
            },
        ),
        data=data,
    )
    counts = [len(p) for p in data["validation"][0].points]
    trivial = float(np.abs(np.array(counts) - 2).mean())
    assert trained.metrics["validation_mae"].value < 0.6 * trivial


def test_whole_images_of_any_size_one_at_a_time():
    small, large = scenes(3, (48, 48)), scenes(3, (53, 70), seed=1)
    mixed = Scenes(
        "mixed",
        small.images + large.images,
        small.points + large.points,
        small.titles + large.titles,
    )
    found = run(params(crop=None, batch=1), data={"train": [mixed]})
    assert found.metrics["updates"].value == 3 * 4


def test_crops_and_maps_move_and_mirror_together():
    image = np.arange(30 * 40).reshape(30, 40)
    density = image.astype(np.float32)
    pixels = np.repeat(image[..., None] % 251, 3, 2).astype(np.uint8)
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        x, d = random_crop(pixels, density, 16, True, np.zeros(3, np.uint8), generator)
        assert x.shape == (16, 16, 3)
        assert np.array_equal(x[..., 0], d.astype(np.int64) % 251)


def test_an_image_smaller_than_the_crop_is_filled_and_keeps_its_count():
    image, density = np.full((20, 40, 3), 7, np.uint8), np.ones((20, 40), np.float32)
    generator = torch.Generator().manual_seed(0)
    x, d = random_crop(image, density, 48, False, np.array([1, 2, 3], np.uint8), generator)
    assert d.sum() == density.sum()
    assert x[:20, :40].tolist() == image.tolist()
    assert x[30, 45].tolist() == [1, 2, 3]


def test_images_smaller_than_the_stride_are_named():
    data = {"train": [scenes(4, (48, 12))]}
    with pytest.raises(
        RetrofitError, match=r"squares 0 of 12 x 48 pixels is smaller than the network's stride"
    ):
        run(data=data)


def test_whole_images_with_too_few_patches_are_named():
    with pytest.raises(RetrofitError, match=r"squares 0: 6 patches of 16 pixels.*compares 9"):
        run(params(crop=None, batch=1), data={"train": [scenes(4, (32, 56))]})


def test_a_loss_that_is_not_finite_says_at_which_update():
    with pytest.raises(RetrofitError, match=r"the loss is (nan|inf) at update \d"):
        run(params(learning_rate=1e12))


def test_one_image_leaves_none_to_hold_out():
    with pytest.raises(RetrofitError, match="one training image leaves none to hold out"):
        run(data={"train": [scenes(1)]})
    found = run(params(validation=0, batch=1), data={"train": [scenes(1)]})
    assert set(found.metrics) == {"updates"}


def test_empty_images_alone_can_be_trained_on():
    empty = scenes(4)
    empty = Scenes("empty", empty.images, [np.empty((0, 2))] * 4, empty.titles)
    assert np.isfinite(run(data={"train": [empty]}).metrics["validation_mae"].value)


def test_maps_of_other_scenes_are_refused():
    made = density_maps.apply(None, {"train": [scenes()]}, MAPS, Context())
    with pytest.raises(RetrofitError, match="not those of other: other images or sizes"):
        train.apply(made, {"train": [scenes(5, name="other")]}, params(), Context())


def test_the_control_gives_the_mean_density_everywhere(tmp_path):
    data = {"train": [scenes()]}
    made = density_maps.apply(None, data, MAPS, Context())
    control = uniform(made, data, UniformDensity(), Context())
    mean = np.mean([len(p) for p in data["train"][0].points])
    assert control.count(data["train"][0].images[0]) == pytest.approx(mean, rel=1e-5)
    control.save(tmp_path)
    half = data["train"][0].images[0][:24]
    assert networks.load(tmp_path).count(half) == pytest.approx(mean / 2, rel=1e-5)
