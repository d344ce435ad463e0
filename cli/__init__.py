"""The command line of nowcast: one file per command; parse, call two or three functions, print."""
