"""Boosted trees as scikit-learn estimators: a regressor for means and quantiles, and a classifier of two classes."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from tercile.quantiles.regression.boosting.boost import Growth, Splits, Trees, boost
from tercile.quantiles.regression.boosting.column_blocks import BLOCK_ROWS, ColumnBlocks
from tercile.quantiles.regression.boosting.losses import Logistic, Loss, Pinball, Squared

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils.multiclass import check_classification_targets, type_of_target
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data
except ImportError as error:
    raise ImportError(
        f"boosted trees are scikit-learn estimators and need version 1.6 or later ({error}); pip install scikit-learn"
    ) from error

_COUNTS = {"n_estimators": (1, 100_000), "max_depth": (1, 16), "max_bins": (2, 65_535)}
_AMOUNTS = {"learning_rate": (0.0, 1.0), "reg_lambda": (0.0, np.inf), "min_gain": (0.0, np.inf)}


class _BoostedTrees(BaseEstimator):  # type: ignore[misc]
    """What both estimators share: the settings, the table, the trees."""

    trees_: Trees
    n_features_in_: int

    def __init__(
        self,
        n_estimators: int = 100,
        *,
        max_depth: int = 6,
        learning_rate: float = 0.3,
        reg_lambda: float = 1.0,
        min_gain: float = 0.0,
        min_child_weight: float = 1.0,
        max_bins: int = 256,
        splits: Splits = "global",
    ) -> None:
        self.n_estimators = n_estimators
        self.max_depth = max_depth
        self.learning_rate = learning_rate
        self.reg_lambda = reg_lambda
        self.min_gain = min_gain
        self.min_child_weight = min_child_weight
        self.max_bins = max_bins
        self.splits = splits

    @property
    def feature_importances_(self) -> NDArray[np.float64]:
        """(features,): the share of all gain that splits on each column brought."""
        check_is_fitted(self)
        return self.trees_.gain_by_feature(self.n_features_in_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _growth(self) -> Growth:
        for name, (low, high) in _COUNTS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise TypeError(f"{name} must be an integer, got {value!r}")
            if not low <= value <= high:
                raise ValueError(f"{name} must be {low} to {high}, got {value}")
        for name, (least, most) in (_AMOUNTS | {"min_child_weight": (0.0, np.inf)}).items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
                raise TypeError(f"{name} must be a number, got {value!r}")
            if not least <= value <= most or value == np.inf or (name == "learning_rate" and value == 0.0):
                raise ValueError(
                    f"{name} must be {'above' if name == 'learning_rate' else 'at least'} {least:g}"
                    f"{f' and at most {most:g}' if most < np.inf else ' and finite'}, got {value}"
                )
        if self.splits not in ("exact", "global", "local"):
            raise ValueError(f"splits must be 'exact', 'global' or 'local', got {self.splits!r}")
        return Growth(
            int(self.n_estimators), int(self.max_depth), float(self.learning_rate), float(self.reg_lambda),
            float(self.min_gain), float(self.min_child_weight), int(self.max_bins), self.splits,
        )  # fmt: skip

    def _grow_table(
        self, table: NDArray[np.float32], y: NDArray[np.float64], sample_weight: ArrayLike | None, loss: Loss,
        growth: Growth,
    ) -> None:  # fmt: skip
        weight = _check_sample_weight(sample_weight, y, dtype=np.float64, ensure_non_negative=True)
        some = weight > 0.0  # a row without weight must not even shift a threshold
        if not some.all():
            table, y, weight = table[some], y[some], weight[some]
        blocks = ColumnBlocks.from_array(table, len(table) if growth.splits == "exact" else BLOCK_ROWS)
        self.trees_ = boost(blocks, y, weight, loss, growth)

    def _grow_blocks(
        self, blocks: ColumnBlocks, y: NDArray[np.float64], sample_weight: ArrayLike | None, loss: Loss, growth: Growth
    ) -> None:
        if not isinstance(blocks, ColumnBlocks):
            raise TypeError(f"blocks must be ColumnBlocks, got {type(blocks).__name__}; use fit for an array")
        if y.size != blocks.rows:
            raise ValueError(f"y must have one value for each of the {blocks.rows} rows, got {y.size}")
        if growth.splits == "exact" and blocks.blocks != 1:
            raise ValueError(
                f"splits='exact' needs all rows in one block, got {blocks.blocks}; "
                f"make them with block_rows={blocks.rows}, or take 'global'"
            )
        weight = _check_sample_weight(sample_weight, y, dtype=np.float64, ensure_non_negative=True)
        self.trees_ = boost(blocks, y, weight, loss, growth)
        self.n_features_in_ = blocks.features

    def _margin(self, table: ArrayLike) -> NDArray[np.float64]:
        check_is_fitted(self)
        checked = validate_data(self, table, reset=False, dtype=np.float32, order="C", ensure_all_finite="allow-nan")
        return self.trees_.margin(checked)


class BoostedTreesRegressor(RegressorMixin, _BoostedTrees):  # type: ignore[misc]
    """Gradient-boosted regression trees for the conditional mean or a conditional quantile (XGBoost's method).

    Chen and Guestrin, XGBoost: A Scalable Tree Boosting System (2016). Missing values (NaN) go, at each split, to the
    side where they lower the loss most.

    Parameters
    ----------
    n_estimators : number of trees.
    loss : "squared" for the mean, "pinball" for the quantile of `level`.
    level : in (0, 1); used with "pinball" only.
    max_depth : of a tree, 1 to 16.
    learning_rate : above 0 to 1; what is taken of each tree.
    reg_lambda : penalty on the square of what a leaf adds; "pinball" uses it to choose splits only.
    min_gain : a split must lower the loss by more, in the units of G^2 / (H + lambda).
    min_child_weight : the least sum of second derivatives in a child: rows, for both losses here.
    max_bins : candidate splits a column when approximate.
    splits : "global" proposes candidates once a tree by the weighted quantile sketch, "local" anew in each node,
        "exact" tries every boundary between values.

    Attributes
    ----------
    trees_ : Trees
    feature_importances_, n_features_in_

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = rng.uniform(-1, 1, (2000, 2))
    >>> y = np.abs(x[:, 0]) * rng.exponential(size=2000)
    >>> upper = BoostedTreesRegressor(50, loss="pinball", level=0.9, max_depth=3, learning_rate=0.1).fit(x, y)
    >>> bool(0.88 < (y <= upper.predict(x)).mean() < 0.93)
    True
    """

    def __init__(
        self,
        n_estimators: int = 100,
        *,
        loss: Literal["squared", "pinball"] = "squared",
        level: float = 0.5,
        max_depth: int = 6,
        learning_rate: float = 0.3,
        reg_lambda: float = 1.0,
        min_gain: float = 0.0,
        min_child_weight: float = 1.0,
        max_bins: int = 256,
        splits: Splits = "global",
    ) -> None:
        super().__init__(
            n_estimators, max_depth=max_depth, learning_rate=learning_rate, reg_lambda=reg_lambda, min_gain=min_gain,
            min_child_weight=min_child_weight, max_bins=max_bins, splits=splits,
        )  # fmt: skip
        self.loss = loss
        self.level = level

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> BoostedTreesRegressor:
        """Learn from a table in memory.

        Parameters
        ----------
        X : (rows, columns); NaN is missing; read as float32.
        y : (rows,).
        sample_weight : (rows,), at least 0.

        Raises
        ------
        ValueError, TypeError : a setting, a shape or a value that does not fit; the message names it.
        """
        loss, growth = self._loss(), self._growth()
        table, target = validate_data(
            self, X, y, dtype=np.float32, order="C", ensure_all_finite="allow-nan", y_numeric=True
        )
        self._grow_table(table, _target(target), sample_weight, loss, growth)
        return self

    def fit_blocks(
        self, blocks: ColumnBlocks, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> BoostedTreesRegressor:
        """Learn from column blocks, for instance a file larger than memory; otherwise like `fit`."""
        self._grow_blocks(blocks, _target(y), sample_weight, self._loss(), self._growth())
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """(rows,): the mean, or the quantile of `level`, for each row of a table with the columns of `fit`."""
        return self._margin(X)

    def _loss(self) -> Loss:
        if self.loss == "squared":
            return Squared()
        if self.loss != "pinball":
            raise ValueError(f"loss must be 'squared' or 'pinball', got {self.loss!r}")
        if not 0.0 < self.level < 1.0:
            raise ValueError(f"level must be above 0 and below 1, got {self.level}")
        return Pinball(float(self.level))


class BoostedTreesClassifier(ClassifierMixin, _BoostedTrees):  # type: ignore[misc]
    """Gradient-boosted trees for the chance of one of two classes, by logistic loss (XGBoost's method).

    The settings are those of `BoostedTreesRegressor`; `min_child_weight` counts p (1 - p) of each row. For more than
    two classes put it into `sklearn.multiclass.OneVsRestClassifier`.

    Attributes
    ----------
    classes_ : the two labels, in order.
    trees_ : Trees, whose sum is the log-odds of the second class.
    feature_importances_, n_features_in_

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> x, y = load_breast_cancer(return_X_y=True)
    >>> model = BoostedTreesClassifier(30, max_depth=3).fit(x[::2], y[::2])
    >>> bool(model.score(x[1::2], y[1::2]) > 0.94)
    True
    """

    classes_: NDArray[Any]

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> BoostedTreesClassifier:
        """Learn from a table in memory; see `BoostedTreesRegressor.fit`. `y` holds one or two different labels."""
        growth = self._growth()
        table, labels = validate_data(self, X, y, dtype=np.float32, order="C", ensure_all_finite="allow-nan")
        self._grow_table(table, self._encode(labels), sample_weight, Logistic(), growth)
        return self

    def fit_blocks(
        self, blocks: ColumnBlocks, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> BoostedTreesClassifier:
        """Learn from column blocks, for instance a file larger than memory; otherwise like `fit`."""
        self._grow_blocks(blocks, self._encode(y), sample_weight, Logistic(), self._growth())
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """(rows,): the log-odds of the second class."""
        return self._margin(X)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """(rows, classes): the chance of each class."""
        margin = self._margin(X)
        if self.classes_.size == 1:
            return np.ones((margin.size, 1))
        return np.stack([expit(-margin), expit(margin)], axis=1)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """(rows,): the likelier class."""
        likelier = self.predict_proba(X).argmax(axis=1)
        return self.classes_[likelier]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    def _encode(self, y: ArrayLike) -> NDArray[np.float64]:
        labels = column_or_1d(y, warn=True)
        check_classification_targets(labels)
        classes, coded = np.unique(labels, return_inverse=True)
        if classes.size > 2:
            raise ValueError(
                "Only binary classification is supported. The type of the target is "
                f"{type_of_target(labels)}; put this classifier into sklearn.multiclass.OneVsRestClassifier"
            )
        self.classes_ = classes
        return coded.astype(np.float64)


def _target(y: ArrayLike) -> NDArray[np.float64]:
    target = np.ascontiguousarray(column_or_1d(y, warn=True), dtype=np.float64)
    if not np.isfinite(target).all():
        raise ValueError(f"y must be finite, got {target[~np.isfinite(target)][0]}")
    return target
