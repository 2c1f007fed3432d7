"""What each pane shows: rows and lines built from a state, drawn by the widgets."""
