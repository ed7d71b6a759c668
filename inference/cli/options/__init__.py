"""Options of the commands: their help, those that several share or that are short for others, ranges of numbers."""
