"""The machine in front of the user: jobs as supervised processes, endpoints as supervised model servers."""
