"""`tritium classify --input`: many items from files, their answers into a file, resumable."""
