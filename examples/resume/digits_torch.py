"""Learns handwritten digits with PyTorch. Interrupted anywhere and resumed, it ends with the same bits.

Everything that the next epoch depends on is in the checkpoint: weights, the optimiser's moments, the learning rate's
schedule, the generator of the order of rows, the generator behind dropout, and the metrics so far.
"""

import json
import time

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from ml_toolbox import runtime

given = {"epochs": 12, "batch_size": 50, "pause_s": 0.0} | runtime.hyperparameters()
# One thread and deterministic kernels: sums are taken in the same order whatever machine the next attempt gets.
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
torch.manual_seed(0)

data, target = load_digits(return_X_y=True)
X, y = torch.tensor(data / 16, dtype=torch.float32), torch.tensor(target)
X_train, y_train, X_test, y_test = X[:1500], y[:1500], X[1500:], y[1500:]

model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Dropout(0.2), nn.Linear(48, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
order = torch.Generator().manual_seed(1)
loss_of = nn.CrossEntropyLoss()
done, history = 0, []

if found := runtime.latest_checkpoint():
    path, done = found
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    order.set_state(state["order"])
    torch.set_rng_state(state["random"])
    history = state["history"]
    print(f"resumed after epoch {done}", flush=True)

for epoch in range(done + 1, given["epochs"] + 1):
    if runtime.should_stop():
        print(f"leaving after epoch {epoch - 1}", flush=True)
        raise SystemExit(0)
    model.train()
    for rows in torch.randperm(len(X_train), generator=order).split(given["batch_size"]):
        optimizer.zero_grad()
        loss_of(model(X_train[rows]), y_train[rows]).backward()
        optimizer.step()
    schedule.step()
    model.eval()
    with torch.no_grad():
        scores = model(X_test)
        accuracy = (scores.argmax(1) == y_test).float().mean().item()
        metrics = {"accuracy": accuracy, "loss": loss_of(scores, y_test).item()}
    history.append(metrics)
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "order": order.get_state(),
        "random": torch.get_rng_state(),
        "history": history,
    }
    torch.save(state, "state.pt")
    runtime.checkpoint("state.pt", epoch)
    runtime.report(epoch=epoch, epochs=given["epochs"], **metrics)
    time.sleep(given["pause_s"])  # time to interrupt it by hand

torch.save(model, runtime.model_dir() / "model.pt")
np.save(runtime.model_dir() / "sample_input.npy", X_test[:50].numpy())
(runtime.output_dir() / "history.json").write_text(json.dumps(history))
