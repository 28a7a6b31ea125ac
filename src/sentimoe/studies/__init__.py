"""Declared studies: from commands to numbers, tables and pictures."""
