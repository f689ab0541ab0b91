"""The command line, one file a group of verbs; each imports only what it needs."""
