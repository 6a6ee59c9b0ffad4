"""A module that is a program without saying so."""

import sys

sys.exit(3)
