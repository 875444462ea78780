"""Where a job or endpoint would run, what it would cost, and why not elsewhere: everything that ``plan`` prints.

Pure but for the ports it is handed: nothing is launched, no credentials are needed.
"""

from ml_toolbox.features.placement.plans import plan_endpoint, plan_job

__all__ = ["plan_endpoint", "plan_job"]
