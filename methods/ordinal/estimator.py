"""PRESTO as scikit-learn estimators: `PRESTO` for a given penalty, `PRESTOCV` chooses it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import check_cv
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from methods.ordinal.crossvalidation import choose, stratified_folds
from methods.ordinal.likelihood import class_probabilities, crossing_rows, linear_predictors
from methods.ordinal.solver import Path, Problem


class _Ordinal(ClassifierMixin, BaseEstimator):
    """What both estimators share: targets, prediction, the model's options."""

    def _targets(self, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """x float [n, p] and y as indices into `classes_`; ValueErrors name what is wrong."""
        _check_options(self)
        x, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        found, indices = np.unique(y, return_inverse=True)
        if len(found) < 2:
            raise ValueError(
                f"{type(self).__name__} needs at least two classes, found one class: {found[0]!r}"
            )
        if self.order is None:
            self.classes_ = found
            return x, indices
        order = np.asarray(self.order)
        known = {label: index for index, label in enumerate(order.tolist())}
        if len(known) != len(order):
            raise ValueError(f"order names a class twice: {order.tolist()}")
        unknown = [label for label in found.tolist() if label not in known]
        missing = [label for label in known if label not in found.tolist()]
        if unknown or missing:
            raise ValueError(
                f"order does not fit y: not in order {unknown}, without a row {missing}"
            )
        self.classes_ = order
        return x, np.array([known[label] for label in y.tolist()])

    def _problem(self, x: np.ndarray, y: np.ndarray) -> Problem:
        return Problem(x, y, len(self.classes_), **self._options())

    def _options(self) -> dict[str, Any]:
        return {
            "l1_ratio": float(self.l1_ratio),
            "penalize_first": self.penalize_first,
            "standardize": self.standardize,
            "feasible": self.feasible,
            "tol": self.tol,
            "max_iter": self.max_iter,
        }

    def _keep(self, x: np.ndarray, path: Path) -> Self:
        """Take the last fit of the path."""
        self.intercept_, self.coef_ = path.intercepts[-1], path.coefs[-1]
        self.objective_, self.kkt_ = float(path.objectives[-1]), float(path.kkt[-1])
        self.n_iter_ = max(1, int(path.steps.sum()))
        self.crossing_rows_ = crossing_rows(linear_predictors(x, self.intercept_, self.coef_))
        return self

    @property
    def differences_(self) -> np.ndarray:
        """psi [K-1, p]: the first class's slopes, then the differences of adjacent ones."""
        check_is_fitted(self)
        return np.diff(self.coef_, axis=0, prepend=0.0)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities [n, K] of `classes_`, also where cumulative curves cross (see `likelihood`)."""
        check_is_fitted(self)
        x = validate_data(self, X, dtype=np.float64, reset=False)
        return class_probabilities(linear_predictors(x, self.intercept_, self.coef_))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each row, [n]."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(axis=1)]


class PRESTO(_Ordinal):
    """Cumulative logits with slopes that may differ between classes, adjacent ones held together.

    P(y <= classes_[k] | x) = sigma(intercept_[k] + x . coef_[k]), k = 0..K-2, minimising the mean negative
    log-likelihood plus lam times the norm of the slopes' differences on standardised columns
    (arXiv 2305.18700).  Meant for a rare last class, which borrows strength from the others.

    Parameters
    ----------
    lam : float, default=0.01
        Weight of the penalty; 0 fits the unpenalised model, which separated classes do not have.
    l1_ratio : float in [0, 1], default=1.0
        1 is the lasso (differences exactly zero), 0 the ridge, between them the elastic net.
    penalize_first : bool, default=True
        Penalise the first class's slopes too, as published. False shrinks to proportional odds.
    standardize : bool, default=True
        Centre columns and scale them to unit (population) variance for the fit.
    feasible : {"observed", "all_rows"}, default="observed"
        Cumulative curves in order where the observed classes ask for it, or on every training row.
    order : sequence of labels, default=None
        The classes from lowest to highest; by default they are sorted, so text would be alphabetical.
    tol : float, default=1e-7
        Largest violation of the optimality conditions.
    max_iter : int, default=100
        Newton steps for one penalty.

    Attributes
    ----------
    classes_ : [K]; intercept_ : [K-1]; coef_ : [K-1, p], on the scale of X
    differences_ : psi [K-1, p]; objective_ : with the penalty; kkt_ : violation reached
    crossing_rows_ : training rows with cumulative curves out of order
    n_iter_ : Newton steps taken; n_features_in_, feature_names_in_ : as everywhere

    Raises
    ------
    ValueError : NaN, a single class, classes that are not in `order`, parameters out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from methods.ordinal.estimator import PRESTO
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(400, 2))
    >>> y = np.digitize(x[:, 0] + rng.logistic(size=400), [0.0, 3.0])
    >>> model = PRESTO(lam=0.01).fit(x, y)
    >>> model.coef_.shape
    (2, 2)
    >>> bool(model.predict_proba([[3.0, 0.0]])[0, 2] > model.predict_proba([[-3.0, 0.0]])[0, 2])
    True
    """

    def __init__(
        self,
        lam: float = 0.01,
        *,
        l1_ratio: float = 1.0,
        penalize_first: bool = True,
        standardize: bool = True,
        feasible: str = "observed",
        order: Sequence[Any] | None = None,
        tol: float = 1e-7,
        max_iter: int = 100,
    ):
        self.lam = lam
        self.l1_ratio = l1_ratio
        self.penalize_first = penalize_first
        self.standardize = standardize
        self.feasible = feasible
        self.order = order
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: Any, y: Any) -> Self:
        """Fit to X [n, p] and labels y [n]; warns `solver.NotConverged` where no finite fit exists."""
        x, y = self._targets(X, y)
        return self._keep(x, self._problem(x, y).path(np.array([float(self.lam)])))

    def path(
        self,
        X: Any,
        y: Any,
        lambdas: Iterable[float] | None = None,
        *,
        n_lambdas: int = 20,
        ratio: float = 0.01,
    ) -> Path:
        """Warm-started fits for many penalties, largest first; leaves the estimator unfitted.

        Without `lambdas`: n_lambdas of them, log-spaced from the smallest that zeroes every penalised slope
        down to `ratio` times that.
        """
        x, y = self._targets(X, y)
        problem = self._problem(x, y)
        return problem.path(_grid(problem, lambdas, n_lambdas, ratio))


class PRESTOCV(_Ordinal):
    """PRESTO with its penalty chosen by cross-validation.

    The criterion is the multi-class Brier score, the choice the largest penalty that attains its minimum, and the
    fit is made on all rows.

    Parameters
    ----------
    lambdas : sequence of float, default=None
        Penalties to try; by default `n_lambdas`, log-spaced down to `ratio` times the largest useful one.
    n_lambdas : int, default=20
    ratio : float in (0, 1), default=0.01
    cv : int or scikit-learn splitter, default=5
        A number means folds stratified by class; a splitter's test sets must cover every row once.
    random_state : int, Generator or None
        For the folds, if `cv` is a number.

    The other parameters, and attributes, are those of `PRESTO`; besides:
    lam_ : the choice; lambdas_ [L]; brier_path_ [folds, L], of held-out rows.

    Examples
    --------
    >>> import numpy as np
    >>> from methods.ordinal.estimator import PRESTOCV
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(400, 2))
    >>> y = np.digitize(x[:, 0] + rng.logistic(size=400), [0.0, 3.0])
    >>> model = PRESTOCV(random_state=0).fit(x, y)
    >>> bool(0 < model.lam_ <= model.lambdas_[0]), model.brier_path_.shape
    (True, (5, 20))
    """

    def __init__(
        self,
        lambdas: Sequence[float] | None = None,
        *,
        n_lambdas: int = 20,
        ratio: float = 0.01,
        cv: Any = 5,
        random_state: Any = None,
        l1_ratio: float = 1.0,
        penalize_first: bool = True,
        standardize: bool = True,
        feasible: str = "observed",
        order: Sequence[Any] | None = None,
        tol: float = 1e-7,
        max_iter: int = 100,
    ):
        self.lambdas = lambdas
        self.n_lambdas = n_lambdas
        self.ratio = ratio
        self.cv = cv
        self.random_state = random_state
        self.l1_ratio = l1_ratio
        self.penalize_first = penalize_first
        self.standardize = standardize
        self.feasible = feasible
        self.order = order
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: Any, y: Any) -> Self:
        """Choose the penalty on X [n, p], y [n], and fit with it to all rows."""
        x, y = self._targets(X, y)
        problem = self._problem(x, y)
        lambdas = _grid(problem, self.lambdas, self.n_lambdas, self.ratio)
        choice = choose(x, y, len(self.classes_), lambdas, self._folds(x, y), **self._options())
        self.lambdas_, self.brier_path_, self.lam_ = lambdas, choice.fold_scores, choice.lam
        return self._keep(x, problem.path(lambdas[: choice.index + 1]))

    def _folds(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if isinstance(self.cv, Integral):
            if not 2 <= self.cv <= len(y):
                raise ValueError(f"cv={self.cv}: a number of folds from 2 to the {len(y)} rows")
            seed = check_random_state(self.random_state).randint(2**31 - 1)
            return stratified_folds(y, int(self.cv), np.random.default_rng(seed))
        fold_of = np.full(len(y), -1)
        for fold, (_, test) in enumerate(check_cv(self.cv, y, classifier=True).split(x, y)):
            if (fold_of[test] >= 0).any():
                raise ValueError("cv holds a row out twice; its test sets must cover each row once")
            fold_of[test] = fold
        if (fold_of < 0).any():
            raise ValueError("cv never holds some rows out; its test sets must cover each row once")
        return fold_of


def _grid(
    problem: Problem, lambdas: Iterable[float] | None, count: int, ratio: float
) -> np.ndarray:
    """Falling penalties, checked."""
    if lambdas is None:
        if not isinstance(count, Integral) or count < 1:
            raise ValueError(f"n_lambdas={count!r}: a positive number is needed")
        if not 0.0 < ratio < 1.0:
            raise ValueError(f"ratio={ratio!r}: allowed is a number between 0 and 1")
        return problem.lambdas(int(count), float(ratio))
    grid = np.sort(np.asarray(list(lambdas), dtype=float))[::-1]
    if not grid.size or not np.isfinite(grid).all() or grid[-1] < 0.0:
        raise ValueError("lambdas: at least one number, all finite and not negative")
    return grid


def _check_options(model: _Ordinal) -> None:
    """Parameters are checked in `fit`, as scikit-learn asks."""
    ranges = {"lam": (0.0, np.inf), "l1_ratio": (0.0, 1.0), "tol": (0.0, np.inf)}
    for name, (low, high) in ranges.items():
        value = getattr(model, name, low)
        if not isinstance(value, Real) or not low <= value <= high or np.isinf(value):
            raise ValueError(
                f"{name}={value!r}: allowed is a finite number from {low:g} to {high:g}"
            )
    if not isinstance(model.max_iter, Integral) or model.max_iter < 1:
        raise ValueError(f"max_iter={model.max_iter!r}: allowed is a whole number from 1")
    if model.feasible not in ("observed", "all_rows"):
        raise ValueError(f"feasible={model.feasible!r}: allowed are 'observed' and 'all_rows'")
