"""Differentially private quantiles, means and regressions, with a budget that cannot be overspent.

`private_quantile` and `private_quantiles` draw from the whole domain, `private_histogram` gives all quantiles at once,
`fit_priors` and `OnlinePriors` learn where quantiles lie from other data, `subset_optimal_mean`, `_center` and
`_quantile` need no idea of the scale, `private_task_regression` shares a user's privacy out among tasks, and
`audited_epsilon` attacks any of them.
"""

from tercile.quantiles.private.audit import audited_epsilon, epsilon_lower_bound
from tercile.quantiles.private.budget import (
    BudgetExceeded,
    Cost,
    PrivacyBudget,
    epsilon_from_rho,
    rho_from_epsilon,
)
from tercile.quantiles.private.density import PrivateHistogram, private_histogram
from tercile.quantiles.private.domain import Domain
from tercile.quantiles.private.learned import OnlinePriors, fit_priors, prediction_loss
from tercile.quantiles.private.many import private_quantile, private_quantiles
from tercile.quantiles.private.multitask import TaskRegression, private_task_regression, user_weights
from tercile.quantiles.private.prior import Cauchy, Laplace, LogUniform, Mixture, Prior, Steps, Uniform, mixed
from tercile.quantiles.private.subset_optimal import (
    removal_effect,
    subset_optimal_center,
    subset_optimal_mean,
    subset_optimal_quantile,
)

__all__ = [
    "BudgetExceeded",
    "Cauchy",
    "Cost",
    "Domain",
    "Laplace",
    "LogUniform",
    "Mixture",
    "OnlinePriors",
    "Prior",
    "PrivacyBudget",
    "PrivateHistogram",
    "Steps",
    "TaskRegression",
    "Uniform",
    "audited_epsilon",
    "epsilon_from_rho",
    "epsilon_lower_bound",
    "fit_priors",
    "mixed",
    "prediction_loss",
    "private_histogram",
    "private_quantile",
    "private_quantiles",
    "private_task_regression",
    "removal_effect",
    "rho_from_epsilon",
    "subset_optimal_center",
    "subset_optimal_mean",
    "subset_optimal_quantile",
    "user_weights",
]
