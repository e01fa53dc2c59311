"""Searches, collection of corpora and networks, whichever engine samples the candidates."""
