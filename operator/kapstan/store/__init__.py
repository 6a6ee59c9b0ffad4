"""The object store: adapters of ``ports.Store``, ``RunLog``, ``EraRegister`` and ``FlowRuns``.

``s3`` (any S3 with conditional writes) and ``local`` (a directory) are made by ``backend``; ``segments`` and
``local_log`` are their journals, ``era`` and ``local_runs`` stand on them. Nothing here knows what the bytes mean.
"""
