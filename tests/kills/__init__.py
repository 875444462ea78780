"""Real processes, really killed. What the simulator shows for virtual time holds for operating systems, databases and sockets.

Here belong a pretended cloud that is a process of its own, the workers and clients that are killed and stopped, the driver that
does it from a seed, and the tests. What must hold afterwards is the simulator's own list of promises.
"""
