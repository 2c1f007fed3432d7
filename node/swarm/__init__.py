"""Announcements, discovery, readiness and commands: what the nodes tell each other."""
