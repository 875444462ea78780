"""Scikit-learn script mode on Amazon SageMaker: random forest on CSV files of the channels `train` and `test`."""
from __future__ import print_function

import argparse
import json
import logging
import os
import sys

import joblib
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, log_loss

logger = logging.getLogger(__name__)
logger.setLevel(logging.INFO)
logger.addHandler(logging.StreamHandler(sys.stdout))


def model_fn(model_dir):
    """Deserialize fitted model for the inference container."""
    return joblib.load(os.path.join(model_dir, "model.joblib"))


def read_channel(path):
    input_files = sorted(os.path.join(path, name) for name in os.listdir(path) if name.endswith(".csv"))
    if len(input_files) == 0:
        raise ValueError(
            "There are no files in {}. This usually indicates that the channel was incorrectly specified "
            "or the role does not have permission to access the data.".format(path)
        )
    return pd.concat([pd.read_csv(name) for name in input_files])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()

    # Hyperparameters are described here and arrive as command-line arguments.
    parser.add_argument("--n-estimators", type=int, default=10)
    parser.add_argument("--max_depth", type=int, default=None)
    parser.add_argument("--min-impurity-decrease", type=float, default=0.0)
    parser.add_argument("--bootstrap", type=lambda text: text.lower() == "true", default=True)
    parser.add_argument("--target", type=str, default="target")

    # SageMaker specific arguments. Defaults are set in the environment variables.
    parser.add_argument("--output-data-dir", type=str, default=os.environ["SM_OUTPUT_DATA_DIR"])
    parser.add_argument("--model-dir", type=str, default=os.environ["SM_MODEL_DIR"])
    parser.add_argument("--train", type=str, default=os.environ["SM_CHANNEL_TRAIN"])
    parser.add_argument("--test", type=str, default=os.environ.get("SM_CHANNEL_TEST"))
    parser.add_argument("--hosts", type=list, default=json.loads(os.environ["SM_HOSTS"]))
    parser.add_argument("--current-host", type=str, default=os.environ["SM_CURRENT_HOST"])
    parser.add_argument("--num-gpus", type=int, default=os.environ["SM_NUM_GPUS"])

    args = parser.parse_args()
    logger.info("hyperparameters as given: %s", json.loads(os.environ["SM_HPS"]))

    train = read_channel(args.train)
    y = train.pop(args.target)
    model = RandomForestClassifier(
        n_estimators=args.n_estimators,
        max_depth=args.max_depth,
        min_impurity_decrease=args.min_impurity_decrease,
        bootstrap=args.bootstrap,
        n_jobs=int(os.environ["SM_NUM_CPUS"]),
        random_state=0,
    )
    model.fit(train, y)
    logger.info("train:accuracy=%.4f;", accuracy_score(y, model.predict(train)))

    if args.test:
        test = read_channel(args.test)
        expected = test.pop(args.target)
        logger.info("validation:accuracy=%.4f;", accuracy_score(expected, model.predict(test)))
        logger.info("validation:log_loss=%.4f;", log_loss(expected, model.predict_proba(test)))

    if args.current_host == args.hosts[0]:
        joblib.dump(model, os.path.join(args.model_dir, "model.joblib"))
        importances = dict(zip(train.columns, model.feature_importances_.tolist()))
        with open(os.path.join(args.output_data_dir, "feature_importances.json"), "w") as out:
            json.dump(importances, out)

    # The toolkit's own files are where a container expects them, too.
    prefix = os.path.dirname(args.model_dir)
    with open(os.path.join(prefix, "input/config/hyperparameters.json")) as tc:
        training_params = json.load(tc)
    assert json.loads(training_params["n-estimators"]) == args.n_estimators
