"""The daily digest: who gets it, what is in it, and how each letter is handed over at most once."""
