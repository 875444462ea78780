"""Training application for a Vertex AI custom job: logistic regression, checkpoints, model to AIP_MODEL_DIR."""

import argparse
import glob
import json
import logging
import os

import joblib
import numpy as np
import pandas as pd
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

try:
    import hypertune  # only installed where hyperparameter tuning jobs run
except ImportError:
    hypertune = None

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")

GS_PREFIX = "gs://"
GCS_FUSE_PREFIX = "/gcs/"


def as_path(uri):
    """Cloud Storage buckets are mounted under /gcs/ in custom training containers."""
    return uri.replace(GS_PREFIX, GCS_FUSE_PREFIX, 1) if uri.startswith(GS_PREFIX) else uri


def get_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("--training-data-uri", default=os.environ.get("AIP_TRAINING_DATA_URI"))
    parser.add_argument("--data-format", default=os.environ.get("AIP_DATA_FORMAT", "csv"))
    parser.add_argument("--model-dir", default=os.environ["AIP_MODEL_DIR"])
    parser.add_argument("--checkpoint-dir", default=os.environ["AIP_CHECKPOINT_DIR"])
    parser.add_argument("--log-dir", default=os.environ["AIP_TENSORBOARD_LOG_DIR"])
    parser.add_argument("--epochs", default=5, type=int)
    parser.add_argument("--alpha", default=1e-4, type=float)
    parser.add_argument("--label", default="target")
    return parser.parse_args()


def is_chief():
    spec = json.loads(os.environ.get("CLUSTER_SPEC", "{}"))
    task = spec.get("task", {"type": "workerpool0", "index": 0})
    return task["type"] == "workerpool0" and task["index"] == 0


def main():
    args = get_args()
    assert args.data_format == "csv", args.data_format
    files = glob.glob(as_path(args.training_data_uri))
    logging.info("job %s reads %d file(s)", os.environ.get("CLOUD_ML_JOB_ID"), len(files))
    frame = pd.concat([pd.read_csv(name) for name in files])
    label = frame.pop(args.label).to_numpy()
    data = frame.to_numpy(dtype=np.float64)
    data = (data - data.mean(axis=0)) / data.std(axis=0)
    x_train, x_eval, y_train, y_eval = train_test_split(data, label, test_size=0.2, random_state=0)

    checkpoint_dir = as_path(args.checkpoint_dir)
    os.makedirs(checkpoint_dir, exist_ok=True)
    os.makedirs(as_path(args.log_dir), exist_ok=True)

    model = SGDClassifier(loss="log_loss", alpha=args.alpha, random_state=0)
    auc = 0.0
    for epoch in range(1, args.epochs + 1):
        model.partial_fit(x_train, y_train, classes=np.unique(y_train))
        auc = roc_auc_score(y_eval, model.decision_function(x_eval))
        logging.info("epoch: %d/%d - val_auc: %.4f", epoch, args.epochs, auc)
        joblib.dump(model, os.path.join(checkpoint_dir, "epoch-%03d.joblib" % epoch))

    if hypertune is not None:
        hypertune.HyperTune().report_hyperparameter_tuning_metric(
            hyperparameter_metric_tag="val_auc", metric_value=auc, global_step=args.epochs
        )

    if is_chief():
        model_dir = as_path(args.model_dir)
        os.makedirs(model_dir, exist_ok=True)
        # The pre-built prediction containers look for exactly this name.
        joblib.dump(model, os.path.join(model_dir, "model.joblib"))


if __name__ == "__main__":
    main()
