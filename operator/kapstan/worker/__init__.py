"""Serves background runs: a supervisor that keeps the lease, and the children that execute.

From claim to commit, file by file: ``executor`` claims a batch, runs it and hands the outcomes in; ``pace`` decides how
much to claim; ``guard`` gives back what waits behind a long run; ``board`` is the memory that a child shares with the
supervisor; ``children`` forks, orders and buries them; ``supervisor`` holds the session, and never runs user code.
``service`` starts all that, ``child`` is a child's life, ``entrypoints`` turns what the command line names into tasks.

Beside them: ``in_process`` serves ``.submit()`` outside a flow from threads, ``flow_process`` executes an attempt of a
flow run.

Knows ports and specs, never an adapter: ``backend`` brings the queue.
"""
