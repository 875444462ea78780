"""The durable reconcile loop: claim, lease, act, fenced apply, retry. Knows no machine learning and no platform."""
