"""One module per subcommand. Each imports what it needs when it runs, so `--help` stays quick."""
