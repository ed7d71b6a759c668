"""The command line: parser, help and commands. Nothing outside this folder imports it."""
