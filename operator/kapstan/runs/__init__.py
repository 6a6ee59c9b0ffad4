"""Runs, for people and for the control plane: records, queries, operations. Loads no user code and unpickles nothing.

Flow runs and background (task) runs are listed, inspected, cancelled, retried and deleted here, whoever asks: the
command line, the operator, a server. What needs user code is answered as data: ``flow_runs.resume`` says what to start.
"""
