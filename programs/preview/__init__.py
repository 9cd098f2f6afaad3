"""What a run would do, seen on a few rows before it is started."""
