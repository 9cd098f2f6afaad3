"""What surrounds the training loop: set-up, checkpoints, the run folder, dev evaluation, mining anew."""
