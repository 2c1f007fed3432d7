"""How each event changes the state: one function per event, in files by subject."""
