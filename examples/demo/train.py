"""A plain scikit-learn script. It knows nothing of any toolbox: arguments in, a model file out."""

import argparse
import os

import joblib
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import train_test_split

parser = argparse.ArgumentParser()
parser.add_argument("--n_estimators", type=int, default=20)
parser.add_argument("--max_depth", type=int, default=3)
parser.add_argument("--rounds", type=int, default=5)
args = parser.parse_args()

frame = pd.read_csv(os.path.join(os.environ["SM_CHANNEL_TRAINING"], "breast_cancer.csv"))
X, y = frame.drop(columns="target").astype("float32"), frame["target"]
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.3, random_state=0, stratify=y)

# Grow the forest in rounds, so that there is something to watch.
model = RandomForestClassifier(max_depth=args.max_depth, warm_start=True, random_state=0)
for epoch in range(1, args.rounds + 1):
    model.set_params(n_estimators=args.n_estimators * epoch // args.rounds)
    model.fit(X_train, y_train)
    accuracy = accuracy_score(y_test, model.predict(X_test))
    auc = roc_auc_score(y_test, model.predict_proba(X_test)[:, 1])
    print(f"epoch {epoch}/{args.rounds} accuracy={accuracy:.4f} auc={auc:.4f}", flush=True)

X_test.head(100).to_csv(os.path.join(os.environ["SM_MODEL_DIR"], "sample_input.csv"), index=False)
joblib.dump(model, os.path.join(os.environ["SM_MODEL_DIR"], "model.joblib"))
