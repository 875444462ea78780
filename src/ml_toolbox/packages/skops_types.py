"""Types that a ``.skops`` file may contain beyond those that skops trusts itself.

Chosen by reading each one: constructing it and setting its state runs no code that the file could choose. The list is
fixed here and never grows by what a file asks for. ``tests/unit/packages/test_sklearn_coverage.py`` fits every scikit-learn
estimator and fails when one of scikit-learn's own types is missing here.

Two of them hold indices that compiled code follows without looking (``Tree``, ``TreePredictor``): skops leaves the second
out for that reason. Here both are allowed and their indices checked after loading (:mod:`.tree_checks`).
"""

from __future__ import annotations

_SKLEARN = """
_loss.loss.HalfGammaLoss _loss.loss.HalfTweedieLoss _loss.loss.HalfTweedieLossIdentity
_loss.loss.AbsoluteError _loss.loss.ExponentialLoss _loss.loss.HalfBinomialLoss _loss.loss.HalfMultinomialLoss
_loss.loss.HalfPoissonLoss _loss.loss.HalfSquaredError _loss.loss.HuberLoss _loss.loss.PinballLoss
calibration._CalibratedClassifier calibration._SigmoidCalibration calibration._TemperatureScaling
cluster._bisect_k_means._BisectingTree cluster._kmeans._kmeans_single_lloyd cluster._kmeans._kmeans_single_elkan
compose._column_transformer._RemainderColsList
compose._column_transformer.make_column_selector
decomposition._dict_learning.SparseCoder
ensemble._hist_gradient_boosting.binning._BinMapper ensemble._hist_gradient_boosting.predictor.TreePredictor
feature_selection._mutual_info.mutual_info_classif feature_selection._mutual_info.mutual_info_regression
feature_selection._univariate_selection.chi2 feature_selection._univariate_selection.f_classif
feature_selection._univariate_selection.f_regression feature_selection._univariate_selection.r_regression
frozen._frozen.FrozenEstimator
gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace
gaussian_process.kernels.CompoundKernel gaussian_process.kernels.ConstantKernel gaussian_process.kernels.DotProduct
gaussian_process.kernels.Exponentiation gaussian_process.kernels.ExpSineSquared gaussian_process.kernels.Hyperparameter
gaussian_process.kernels.Matern gaussian_process.kernels.PairwiseKernel gaussian_process.kernels.Product
gaussian_process.kernels.RBF gaussian_process.kernels.RationalQuadratic gaussian_process.kernels.Sum
gaussian_process.kernels.WhiteKernel
linear_model._sgd_fast.EpsilonInsensitive linear_model._sgd_fast.SquaredEpsilonInsensitive
linear_model._sgd_fast.Hinge linear_model._sgd_fast.SquaredHinge linear_model._sgd_fast.ModifiedHuber
metrics._classification.accuracy_score metrics._classification.balanced_accuracy_score
metrics._classification.brier_score_loss metrics._classification.d2_brier_score
metrics._classification.d2_log_loss_score metrics._classification.f1_score metrics._classification.jaccard_score
metrics._classification.log_loss metrics._classification.matthews_corrcoef metrics._classification.precision_score
metrics._classification.recall_score metrics._ranking.average_precision_score metrics._ranking.roc_auc_score
metrics._ranking.top_k_accuracy_score metrics._regression.d2_absolute_error_score
metrics._regression.explained_variance_score metrics._regression.max_error metrics._regression.mean_absolute_error
metrics._regression.mean_absolute_percentage_error metrics._regression.mean_gamma_deviance
metrics._regression.mean_poisson_deviance metrics._regression.mean_squared_error
metrics._regression.mean_squared_log_error metrics._regression.median_absolute_error metrics._regression.r2_score
metrics._regression.root_mean_squared_error metrics._regression.root_mean_squared_log_error
metrics._scorer.negative_likelihood_ratio metrics._scorer.positive_likelihood_ratio
metrics.cluster._supervised.adjusted_mutual_info_score metrics.cluster._supervised.adjusted_rand_score
metrics.cluster._supervised.completeness_score metrics.cluster._supervised.fowlkes_mallows_score
metrics.cluster._supervised.homogeneity_score metrics.cluster._supervised.mutual_info_score
metrics.cluster._supervised.normalized_mutual_info_score metrics.cluster._supervised.rand_score
metrics.cluster._supervised.v_measure_score
metrics._scorer._CurveScorer metrics._scorer._PassthroughScorer metrics._scorer._Scorer metrics._scorer._MultimetricScorer
model_selection._split.KFold model_selection._split.StratifiedKFold model_selection._split.GroupKFold
model_selection._split.TimeSeriesSplit model_selection._split.ShuffleSplit model_selection._split.StratifiedShuffleSplit
multiclass._ConstantPredictor
neighbors._ball_tree.BallTree neighbors._ball_tree.BallTree32 neighbors._ball_tree.BallTree64
neighbors._kd_tree.KDTree neighbors._kd_tree.KDTree32 neighbors._kd_tree.KDTree64
neighbors._ball_tree.newObj neighbors._kd_tree.newObj
neural_network._stochastic_optimizers.AdamOptimizer neural_network._stochastic_optimizers.SGDOptimizer
preprocessing._function_transformer._identity
tree._tree.Tree
utils._bunch.Bunch utils.validation.check_array
utils._metadata_requests.MetadataRequest utils._metadata_requests.MethodMetadataRequest
"""

_DISTANCES = (
    "BrayCurtis Canberra Chebyshev Dice Euclidean Hamming Haversine Jaccard Mahalanobis Manhattan Minkowski "
    "RogersTanimoto RussellRao SEuclidean SokalSneath SokalMichener Yule"
)

_OTHERS = """
builtins.bytearray builtins.bytes builtins.complex builtins.frozenset builtins.range builtins.slice
collections.OrderedDict collections.defaultdict
functools.partial
numpy.amax numpy.amin numpy.dtype numpy.max numpy.mean numpy.median numpy.min numpy.ndarray numpy.std numpy.sum
scipy._lib.array_api_compat.numpy._aliases.asarray
scipy.interpolate._bsplines.BSpline scipy.interpolate._interpolate.interp1d scipy.interpolate._interpolate.PPoly
scipy.sparse._coo.coo_array scipy.sparse._coo.coo_matrix scipy.sparse._csc.csc_array scipy.sparse._csc.csc_matrix
scipy.sparse._csr.csr_array scipy.sparse._csr.csr_matrix scipy.sparse._dia.dia_array scipy.sparse._dia.dia_matrix
lightgbm.basic.Booster lightgbm.compat.LGBMNotFittedError
lightgbm.sklearn.LGBMClassifier lightgbm.sklearn.LGBMModel lightgbm.sklearn.LGBMRanker lightgbm.sklearn.LGBMRegressor
xgboost.core.Booster xgboost.sklearn.XGBClassifier xgboost.sklearn.XGBModel xgboost.sklearn.XGBRanker
xgboost.sklearn.XGBRFClassifier xgboost.sklearn.XGBRFRegressor xgboost.sklearn.XGBRegressor
"""

TRUSTED_TYPES: tuple[str, ...] = tuple(
    sorted(
        {
            *(f"sklearn.{name}" for name in _SKLEARN.split()),
            *(
                f"sklearn.metrics._dist_metrics.{n}Distance{bits}"
                for n in _DISTANCES.split()
                for bits in ("32", "64", "")
            ),
            *_OTHERS.split(),
        }
    )
)
