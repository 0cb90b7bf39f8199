"""Gradient-boosted trees on quantile cuts: means, quantiles and chances from tables with missing values."""

from tercile.quantiles.regression.boosting.boost import Trees
from tercile.quantiles.regression.boosting.column_blocks import ColumnBlocks
from tercile.quantiles.regression.boosting.estimators import BoostedTreesClassifier, BoostedTreesRegressor

__all__ = ["BoostedTreesClassifier", "BoostedTreesRegressor", "ColumnBlocks", "Trees"]
