"""Other projects' ways in."""
