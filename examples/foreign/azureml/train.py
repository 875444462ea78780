"""Training step of an Azure Machine Learning command job: gradient boosting, tracked with MLflow.

command: python train.py --training_data ${{inputs.training_data}} --test_train_ratio ${{inputs.test_train_ratio}}
         --learning_rate ${{inputs.learning_rate}} --model_output ${{outputs.model_output}} --report ${{outputs.report}}
"""

import argparse
import os
from pathlib import Path

import joblib
import mlflow
import pandas as pd
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.metrics import classification_report, f1_score
from sklearn.model_selection import train_test_split


def parse_args():
    parser = argparse.ArgumentParser("train")
    parser.add_argument("--training_data", type=str, help="Path to training data (uri_file)")
    parser.add_argument("--test_train_ratio", type=float, required=False, default=0.25)
    parser.add_argument("--n_estimators", required=False, default=20, type=int)
    parser.add_argument("--learning_rate", required=False, default=0.1, type=float)
    parser.add_argument("--model_output", type=str, help="Path of output model (uri_folder)")
    parser.add_argument("--report", type=str, help="Path of the report (uri_folder)")
    return parser.parse_args()


def main(args):
    print("run id:", os.environ["AZUREML_RUN_ID"])
    print(" ".join(f"{k}={v}" for k, v in vars(args).items()))

    mlflow.start_run()

    data = pd.read_csv(args.training_data)
    mlflow.log_metric("num_samples", data.shape[0])
    mlflow.log_metric("num_features", data.shape[1] - 1)

    train_df, test_df = train_test_split(data, test_size=args.test_train_ratio, random_state=0)
    y_train = train_df.pop("target")
    X_train = train_df.values
    y_test = test_df.pop("target")
    X_test = test_df.values
    print(f"Training with data of shape {X_train.shape}")

    clf = GradientBoostingClassifier(
        n_estimators=args.n_estimators, learning_rate=args.learning_rate, random_state=0
    )
    clf.fit(X_train, y_train)
    for step, predicted in enumerate(clf.staged_predict(X_test)):
        mlflow.log_metric("f1", f1_score(y_test, predicted), step=step)

    text = classification_report(y_test, clf.predict(X_test))
    print(text)
    Path(args.report).mkdir(parents=True, exist_ok=True)
    (Path(args.report) / "report.txt").write_text(text)

    # Files under ./outputs and ./logs are kept with the run.
    os.makedirs("outputs", exist_ok=True)
    (Path("outputs") / "columns.txt").write_text("\n".join(train_df.columns))

    Path(args.model_output).mkdir(parents=True, exist_ok=True)
    joblib.dump(clf, Path(args.model_output) / "model.joblib")

    mlflow.end_run()


if __name__ == "__main__":
    main(parse_args())
