"""Commands of `tercile` that are too long for cli.py, one a file. They import what they need when they run."""
