"""Recipes that are shared: those that ship with ftrun, and those that a team keeps in a catalogue."""
