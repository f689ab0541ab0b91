"""A mixture of Gaussian experts behind a softmax gate as a scikit-learn estimator."""

from __future__ import annotations

import warnings
from typing import Any, Literal, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from methods.mixtures.designs import from_data
from methods.mixtures.em import em, empty_experts
from methods.mixtures.fisher import Information, names_of, packed, scores
from methods.mixtures.gates import DEPENDENT, Gate, log_gates
from methods.mixtures.mixture import joint, responsibilities
from methods.study.errors import RetrofitError


class NotConverged(UserWarning):
    """EM stopped at `max_iter`."""


class NotIdentified(UserWarning):
    """A direction of the numbers that the data say nothing about."""


class MixtureOfExperts(RegressorMixin, BaseEstimator):
    """p(y | x) = sum_i g_i(x) N(y; coef_i·x + intercept_i, variance_i), fitted by EM with restarts.

    Parameters
    ----------
    n_experts : int, default=2
    active : int, default=None
        How many experts answer for one x (top-K gate); None: all.
    ranking : {"slope", "logit"}, default="logit"
        Whether the K largest are of weights·x, or of weights·x + bias.
    activation : {"identity", "relu", "sigmoid", "tanh", "gelu"}, default="identity"
        phi of weights·x (arXiv 2401.13875).
    temperature : bool, default=False
        Estimate a temperature. With identity and relu it is not identified, and a warning says so.
    n_init : int, default=5
        Independent starts, all fitted at once; the likeliest is kept.
    max_iter : int, default=500
    tol : float, default=1e-6
        Rise of the log-likelihood that ends EM.
    random_state : int, RandomState or None

    Attributes
    ----------
    gate_weights_ [k, p], gate_bias_ [k], temperature_ : of the gate
    coef_ [k, p], intercept_ [k], variance_ [k] : of the experts
    log_likelihood_, bic_, n_iter_, converged_ : of the kept start; log_likelihoods_ [n_init]
    empty_experts_ : experts that answer for less than half a row; n_features_in_, feature_names_in_

    Raises
    ------
    ValueError : NaN or infinite values, fewer rows than numbers to estimate, more active experts than there are.

    Examples
    --------
    >>> import numpy as np
    >>> from methods.mixtures.estimator import MixtureOfExperts
    >>> rng = np.random.default_rng(0)
    >>> x = rng.uniform(-1, 1, size=(600, 1))
    >>> y = np.where(x[:, 0] > 0, 3 * x[:, 0], -2) + 0.1 * rng.normal(size=600)
    >>> model = MixtureOfExperts(random_state=0).fit(x, y)
    >>> sorted(model.coef_.ravel().round().astype(int).tolist()), model.converged_
    ([0, 3], True)
    """

    def __init__(
        self,
        n_experts: int = 2,
        *,
        active: int | None = None,
        ranking: Literal["slope", "logit"] = "logit",
        activation: str = "identity",
        temperature: bool = False,
        n_init: int = 5,
        max_iter: int = 500,
        tol: float = 1e-6,
        random_state: Any = None,
    ):
        self.n_experts = n_experts
        self.active = active
        self.ranking = ranking
        self.activation = activation
        self.temperature = temperature
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def __sklearn_tags__(self):
        """Its score is no R²."""
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True
        return tags

    def fit(self, X: Any, y: Any) -> Self:
        """X [n, p], y [n]."""
        x, target = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        gate = self._gate()
        p = x.shape[1]
        numbers = (self.n_experts - 1) * (p + 1) + self.n_experts * (p + 2) + gate.tempered
        if len(x) <= numbers:
            raise ValueError(
                f"n_samples={len(x)}: too few rows for {numbers} numbers of {self.n_experts} experts"
            )
        if gate.tempered and gate.activation in DEPENDENT:
            why = DEPENDENT[gate.activation]
            text = f"activation '{gate.activation}': the temperature is not identified, since {why}"
            warnings.warn(text, NotIdentified, stacklevel=2)
        seeds = check_random_state(self.random_state).randint(2**31 - 1, size=self.n_init)
        generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        starts = self.n_init
        xs = torch.from_numpy(x).expand(starts, *x.shape)
        ys = torch.from_numpy(np.asarray(target, dtype=np.float64)).expand(starts, len(x))
        start = from_data(xs, ys, self.n_experts, gate, 1, generators)
        fitted = em(xs, ys, start, gate, tolerance=self.tol, iterations=self.max_iter)
        best = int(fitted.log_likelihood.argmax())
        self._mixture = fitted.mixture[best].canonical(gate)
        self.log_likelihoods_ = fitted.log_likelihood.numpy()
        self.log_likelihood_ = float(fitted.log_likelihood[best])
        self.n_iter_, self.converged_ = int(fitted.iterations[best]), bool(fitted.converged[best])
        free = len(packed(self._mixture)) - x.shape[1] * (gate.activation == "identity")
        self.bic_ = free * float(np.log(len(x))) - 2 * self.log_likelihood_
        self.empty_experts_ = int(empty_experts(xs[0], ys[0], self._mixture, gate))
        self._expose()
        if not self.converged_:
            text = f"EM did not converge in {self.max_iter} iterations; raise max_iter or tol"
            warnings.warn(text, NotConverged, stacklevel=2)
        return self

    def _gate(self) -> Gate:
        try:
            gate = Gate(self.active, self.ranking, self.activation, bool(self.temperature))
            gate.check(self.n_experts)
        except RetrofitError as error:
            raise ValueError(str(error)) from None
        return gate

    def _expose(self) -> None:
        found = self._mixture
        self.gate_weights_, self.gate_bias_ = found.beta1.numpy(), found.beta0.numpy()
        self.temperature_ = None if found.tau is None else float(found.tau)
        self.coef_, self.intercept_ = found.a.numpy(), found.b.numpy()
        self.variance_ = found.v.numpy()

    def _rows(self, X: Any) -> torch.Tensor:
        check_is_fitted(self)
        return torch.from_numpy(validate_data(self, X, dtype=np.float64, reset=False))

    def predict_proba(self, X: Any) -> np.ndarray:
        """The gate: probability of each expert before y is seen, [n, k]."""
        x = self._rows(X)
        m = self._mixture
        return log_gates(x, m.beta1, m.beta0, self._gate(), m.tau).exp().numpy()

    def predict(self, X: Any) -> np.ndarray:
        """E[y | x], [n]."""
        x = self._rows(X)
        means = x.numpy() @ self.coef_.T + self.intercept_
        return (self.predict_proba(X) * means).sum(1)

    def responsibilities(self, X: Any, y: Any) -> np.ndarray:
        """Probability of each expert once y is seen, [n, k]."""
        x, target = self._rows(X), torch.as_tensor(np.asarray(y, dtype=np.float64))
        return responsibilities(x, target, self._mixture, self._gate())[0].numpy()

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Mean log-likelihood of a row (as GaussianMixture has it), not R²."""
        x, target = self._rows(X), torch.as_tensor(np.asarray(y, dtype=np.float64))
        each = joint(x, target, self._mixture, self._gate()).logsumexp(-1).numpy()
        return float(np.average(each, weights=sample_weight))

    def standard_errors(self, X: Any, y: Any) -> dict[str, float]:
        """Standard error of each number, from the scores at the rows; infinite along directions without information,
        which a NotIdentified warning names.
        """
        x, target = self._rows(X), torch.as_tensor(np.asarray(y, dtype=np.float64))
        found = scores(x, target, self._mixture, self._gate())
        names = names_of(self._mixture)
        kept = list(range(len(names)))
        if self.activation == "identity":  # the last weights are zero by convention
            kept = [
                i for i, name in enumerate(names) if not name.startswith(f"beta1_{self.n_experts}")
            ]
        matrix = (found.T @ found)[kept][:, kept]
        values, directions = torch.linalg.eigh(matrix)
        information = Information(values, directions, [names[i] for i in kept])
        for direction in information.null:
            warnings.warn(
                f"no information in the direction {direction}", NotIdentified, stacklevel=2
            )
        least = 1e-9 * float(values[-1])
        inverse = torch.where(values > least, 1 / values, torch.inf)
        weight = directions.square()
        variance = torch.where(weight > 1e-12, weight * inverse, 0.0).sum(-1)
        return dict(zip(information.names, variance.sqrt().tolist(), strict=True))
