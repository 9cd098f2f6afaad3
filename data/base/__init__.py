"""What every command shares: errors, files, text, the command line, statistics, progress. Imports nothing of ours."""
