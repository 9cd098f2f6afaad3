"""Encoder, mining, losses and the training loop. Imports `data` only."""

import os

# On a machine that does other work too, OpenMP's threads would burn their time slices spinning at each barrier for one
# that is not running: measured 25 s instead of 4 s for the same step. Read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
