"""Learns handwritten digits by stochastic gradient descent. Interrupted anywhere and resumed, it ends with the same bits.

Everything that the next epoch depends on is in the checkpoint: the model (with its learning rate's counter), the generator
that draws the order of the rows, and the metrics so far.
"""

import json
import time

import joblib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss

from ml_toolbox import runtime

given = {"epochs": 12, "batch_size": 30, "pause_s": 0.0} | runtime.hyperparameters()

X, y = load_digits(return_X_y=True)
X, classes = X / 16, np.arange(10)
X_train, y_train, X_test, y_test = X[:1500], y[:1500], X[1500:], y[1500:]

if found := runtime.latest_checkpoint():
    path, done = found
    model, random, history = joblib.load(path)
    print(f"resumed after epoch {done}", flush=True)
else:
    done, history = 0, []
    random = np.random.default_rng(seed=0)
    model = SGDClassifier(loss="log_loss", learning_rate="invscaling", eta0=0.5, power_t=0.2, shuffle=False)

for epoch in range(done + 1, given["epochs"] + 1):
    if runtime.should_stop():
        print(f"leaving after epoch {epoch - 1}", flush=True)
        raise SystemExit(0)
    for rows in np.array_split(random.permutation(len(X_train)), len(X_train) // given["batch_size"]):
        model.partial_fit(X_train[rows], y_train[rows], classes=classes)
    metrics = {
        "accuracy": model.score(X_test, y_test),
        "loss": log_loss(y_test, model.predict_proba(X_test), labels=classes),
    }
    history.append(metrics)
    joblib.dump((model, random, history), "state.joblib")
    runtime.checkpoint("state.joblib", epoch)
    runtime.report(epoch=epoch, epochs=given["epochs"], **metrics)
    time.sleep(given["pause_s"])  # time to interrupt it by hand

joblib.dump(model, runtime.model_dir() / "model.joblib")
np.save(runtime.model_dir() / "sample_input.npy", X_test[:50])
(runtime.output_dir() / "history.json").write_text(json.dumps(history))
