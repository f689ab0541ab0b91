"""The paper's three tasks of neuroscience, in neurogym's conventions, and images read line by line.

Steps of 100 ms, eight to a trial; observations are channels of a ring of two places beside a fixation cue; label 0 is
"fixate" and 1 or 2 the choice in the last step.  A stimulus at place p with coherence c is
.5 + cos(theta - theta_p) c / 200 plus noise of deviation 1 / sqrt(dt) = .1.

Fidelity: PerceptualDecisionMaking-v0, DelayMatchSample-v0 and ContextDecisionMaking-v0 (with explicit context) of
neurogym 2.3.1 at the published timings, written anew on whole batches, because that package pins older NumPy and
matplotlib; tests hold trials and statistics of the package itself against these.  In the first and third, fixation
lasts 0 ms, so its cue is always off; the context cue stays on in the decision.  A trial is as long as a sequence, so
each starts from h_0 = 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from methods.dynamics.rich_lazy.memory import Shape

STEPS = 8
SIGMA = 1.0 / np.sqrt(100.0)
COHERENCES = np.array([0.0, 6.4, 12.8, 25.6, 51.2])
CONTEXT_COHERENCES = np.array([5.0, 15.0, 50.0])
TEST = 6
"""Step of the second stimulus in the delayed match."""

Batch = tuple[np.ndarray, np.ndarray]
"""Observations float32 [steps, n, channels] and labels int64 [read, n], of the last steps."""
Draw = Callable[[int, np.random.Generator], Batch]
"""Makes n labelled sequences."""


def ring(place: np.ndarray, coherence: np.ndarray | float) -> np.ndarray:
    """Noiseless stimulus [..., 2] for places 0 or 1 and coherences in percent [...]."""
    cosine = np.where(np.arange(2) == np.asarray(place)[..., None], 1.0, -1.0)
    return cosine * (np.asarray(coherence)[..., None] / 200.0) + 0.5


def _labels(choice: np.ndarray) -> np.ndarray:
    labels = np.zeros((STEPS, len(choice)), dtype=np.int64)
    labels[-1] = choice
    return labels


def two_alternative(place: np.ndarray, coherence: np.ndarray, noise: np.ndarray) -> Batch:
    """Which of two noisy places is stronger?  place int [n] 0..1, coherence [n], noise [n, 7, 2] standard normal.

    Seven steps of stimulus, one of decision; channels: fixation, places.
    """
    x = np.zeros((STEPS, len(place), 3), dtype=np.float32)
    x[:7, :, 1:] = (ring(place, coherence)[:, None] + SIGMA * noise).transpose(1, 0, 2)
    return x, _labels(place + 1)


def delayed_match(match: np.ndarray, place: np.ndarray, noise: np.ndarray) -> Batch:
    """Is the second stimulus at the first one's place?  match int [n] 1 (yes) or 2, place int [n], noise [n, 2, 2].

    Sample, five steps of delay, test, decision; channels: fixation (off in the decision), places.
    """
    x = np.zeros((STEPS, len(place), 3), dtype=np.float32)
    x[:7, :, 0] = 1.0
    second = np.where(match == 1, place, 1 - place)
    shown = np.stack([ring(place, 100.0), ring(second, 100.0)], 1) + SIGMA * noise
    x[[0, TEST], :, 1:] = shown.transpose(1, 0, 2)
    return x, _labels(match)


def context(
    choice: np.ndarray,
    other: np.ndarray,
    cue: np.ndarray,
    coherence: np.ndarray,
    noise: np.ndarray,
) -> Batch:
    """Two stimuli at once; the cue says which counts.

    choice, other int [n] 1..2 (of the modality that counts, and of the other), cue int [n] 0..1, coherence [n, 2] by
    modality, noise [n, 2, 2, 2] by step, modality and place.  Two steps of stimulus, five of delay, one of decision;
    channels: fixation, places of modality 1, of modality 2, context cues.
    """
    x = np.zeros((STEPS, len(choice), 7), dtype=np.float32)
    first, second = np.where(cue == 0, (choice, other), (other, choice))
    clean = np.stack([ring(first - 1, coherence[:, 0]), ring(second - 1, coherence[:, 1])], 1)
    shown = (clean[:, None] + SIGMA * noise).transpose(1, 0, 2, 3)
    x[:2, :, 1:5] = shown.reshape(2, len(choice), 4)
    x[:, np.arange(len(choice)), 5 + cue] = 1.0
    return x, _labels(choice)


def draw_two_alternative(n: int, rng: np.random.Generator) -> Batch:
    """n trials."""
    coherence = rng.choice(COHERENCES, n)
    return two_alternative(rng.integers(2, size=n), coherence, rng.standard_normal((n, 7, 2)))


def draw_delayed_match(n: int, rng: np.random.Generator) -> Batch:
    """n trials."""
    match = rng.integers(1, 3, size=n)
    return delayed_match(match, rng.integers(2, size=n), rng.standard_normal((n, 2, 2)))


def draw_context(n: int, rng: np.random.Generator) -> Batch:
    """n trials."""
    choice, other = rng.integers(1, 3, size=(2, n))
    coherence = rng.choice(CONTEXT_COHERENCES, (n, 2))
    return context(
        choice, other, rng.integers(2, size=n), coherence, rng.standard_normal((n, 2, 2, 2))
    )


TASKS: dict[str, Draw] = {
    "two_alternative": draw_two_alternative,
    "delayed_match": draw_delayed_match,
    "context": draw_context,
}


def lines(x: np.ndarray, y: np.ndarray, classes: int) -> tuple[Draw, Shape]:
    """Images x uint8 [n, height, width] as sequences of their lines in 0..1, labelled in the last step."""
    pixels = x.reshape(len(x), x.shape[1], -1)

    def draw(n: int, rng: np.random.Generator) -> Batch:
        chosen = rng.integers(len(pixels), size=n)
        sequences = pixels[chosen].transpose(1, 0, 2).astype(np.float32) / np.float32(255.0)
        return sequences, y[chosen][None].astype(np.int64)

    return draw, Shape(pixels.shape[1], pixels.shape[2], classes, 1)
