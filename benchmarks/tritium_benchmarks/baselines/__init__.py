"""What a user would run in place of Tritium: each a small file, as its documentation has it."""
