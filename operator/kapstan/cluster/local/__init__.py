"""Local mode: our resources as files of the home (`objects`, `cluster`), what executes as processes (`processes`).

For development on one machine. It imitates no API server: it holds our four kinds only, refuses what CEL refuses by the
same models, and never sees a pod.
"""
