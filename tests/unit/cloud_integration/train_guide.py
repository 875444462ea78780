"""What a guide's user has: a plain script that reads its channel and saves a model. Run by the tests as a job."""

import argparse
import os
from pathlib import Path

import joblib
import numpy as np
from sklearn.linear_model import LogisticRegression

parser = argparse.ArgumentParser()
parser.add_argument("--penalty", type=float, default=1.0)
C: float = parser.parse_args().penalty

folder = next(Path(os.environ["SM_CHANNEL_TRAINING"]).rglob("X.npy")).parent
X, y = np.load(folder / "X.npy"), np.load(folder / "y.npy")
model = LogisticRegression(C=C, solver="liblinear").fit(X, y)
print(f"accuracy={model.score(X, y):.4f}")
joblib.dump(model, Path(os.environ["SM_MODEL_DIR"]) / "model.joblib")
