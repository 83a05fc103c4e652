"""Check whether this installation works, and find the commands that repair it."""
