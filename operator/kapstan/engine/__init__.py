"""Runs one task and one flow: calls user code under its policies and records what came of it.

Acts on ``TaskSpec`` and ``FlowSpec`` only; never imports the decorators, the worker or the control plane.
"""
