"""The queue on Redis: adapters of ``ports.Queue``, ``ports.FlowRuns`` and the embedded server.

The one home of the packages ``redis`` and ``hiredis``. ``backend`` makes the objects; everything else calls the ports.
"""
