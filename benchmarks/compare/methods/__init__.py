"""The methods that are compared: variants of the engine and its peers, with their options."""
