"""Lock managers: waiting in ``manager``, one module per place where locks are kept. Made by ``backend``."""
